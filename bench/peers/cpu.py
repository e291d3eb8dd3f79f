"""Times what others reach on the same cores in the same run, for `afterimage bench … --peers FILE`: a vision tower, and a decoder's first
token and the tokens after it. bench/cpu.sh calls it.

    taskset -c 0,1 python3 bench/peers/cpu.py --out peers.jsonl [--llama-bench PROGRAM] [--threads 2] [--models smolvlm2-256m,…]
        [--towers siglip-b16-512,…] [--compile] [--seconds N]

Writes one JSON object a line: what, shape, value, unit, peer, with the names that bench/encoder.go and bench/tokens.go give. Weights and
inputs are random; of several rounds the best counts, which is to a peer's advantage. What is not installed is left out by name.

  transformers   the library as it comes (scaled_dot_product_attention), float32 and bfloat16; a tower is given pixels that are prepared
                 already, and a decoder computes the last row's logits only
  torch.compile  the same tower through torch.compile, with --compile: compiling takes about a minute and a C++ compiler
  llama.cpp      its own llama-bench on a GGUF of the same shapes that is written here: BF16, Q8_0 and Q4_0. A warm first token is a
                 prompt of 16 after 1,024, decoding 32 tokens after 1,040

Tested with Python 3.12, torch 2.15, transformers 5.17, and the llama.cpp in llama-cpp-python 0.3.36.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
MEMORY, QUESTION, TOKENS = 1024, 16, 32  # rows, as bench/tokens.go has them
START = time.monotonic()


def left(args):
    return args.seconds - (time.monotonic() - START)


def emit(out, what, shape, value, unit, peer):
    print(json.dumps({"what": what, "shape": shape, "value": round(value, 4), "unit": unit, "peer": peer}), file=out, flush=True)
    print(f"{what:24} {shape:32} {value:10.2f} {unit:10} {peer}", file=sys.stderr, flush=True)


def best(fn, rounds=3, warm=1):
    """The least seconds of fn(), after calls that do not count."""
    times = []
    for i in range(rounds + warm):
        t = time.perf_counter()
        fn()
        if i >= warm:
            times.append(time.perf_counter() - t)
    return min(times)


# --- transformers


def tower(args, out, name):
    import torch
    from transformers import SiglipVisionConfig, SiglipVisionModel

    raw = json.loads((HERE / "models" / f"{name}.json").read_text())
    raw.pop("model_type")
    model = SiglipVisionModel(SiglipVisionConfig(**raw)).eval()
    for label, as_type in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        m = model.to(as_type)
        pixels = torch.rand(1, 3, raw["image_size"], raw["image_size"]).to(as_type)
        with torch.inference_mode():
            emit(out, "encoding pictures", f"{name} batch 1", 1 / best(lambda: m(pixels)), "frames/s", f"transformers {label}")
            if args.compile:
                c = torch.compile(m)
                emit(out, "encoding pictures", f"{name} batch 1", 1 / best(lambda: c(pixels), warm=2), "frames/s", f"torch.compile {label}")


def decoder(args, out, name):
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    raw = json.loads((HERE / "models" / f"{name}.json").read_text())
    raw.pop("model_type")
    model = LlamaForCausalLM(LlamaConfig(**raw)).eval()
    ids = torch.randint(0, raw["vocab_size"], (1, MEMORY + QUESTION))
    for label, as_type in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        m = model.to(as_type)
        shape = f"{name} {label}"
        with torch.inference_mode():
            emit(out, "first token, cold", f"{shape} {MEMORY}", 1e3 * best(lambda: m(ids, logits_to_keep=1), rounds=2), "ms", "transformers")
            cache = DynamicCache()
            m(ids[:, :MEMORY], past_key_values=cache, logits_to_keep=1)

            def question():
                cache.crop(MEMORY)
                m(ids[:, MEMORY:], past_key_values=cache, logits_to_keep=1)

            emit(out, "first token, warm", f"{shape} {MEMORY}", 1e3 * best(question), "ms", "transformers")

            def answer():
                cache.crop(MEMORY + QUESTION)
                token = ids[:, -1:]
                for _ in range(TOKENS):
                    token = m(token, past_key_values=cache, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)

            emit(out, "decoding", f"{shape} over {MEMORY}", TOKENS / best(answer, rounds=2), "tokens/s", "transformers")


# --- llama.cpp

F32, Q4_0, Q8_0, BF16 = 0, 2, 8, 30  # ggml's types
STRING, U32, F32_VALUE = 8, 4, 6  # GGUF's kinds of values
ALIGN = 32


def random_chunk(kind, rng):
    """(bytes, numbers) of random weights. It is repeated: only where in memory a weight lies matters to a timing."""
    blocks = 4096
    if kind == F32:
        return struct.pack("<f", 1.0) * blocks, blocks
    if kind == BF16:  # of either sign, near 1/64
        return b"".join(struct.pack("<H", 0x3C00 | rng.getrandbits(7) | rng.getrandbits(1) << 15) for _ in range(blocks)), blocks
    body = {Q8_0: 32, Q4_0: 16}[kind]  # of a block of 32, after a scale
    scale = struct.pack("<e", {Q8_0: 2e-4, Q4_0: 4e-3}[kind])
    return b"".join(scale + rng.randbytes(body) for _ in range(blocks)), 32 * blocks


def write_gguf(path, c, kind):
    """A Llama of config c with random weights of one type, and no words."""
    h, mlp = c["hidden_size"], c["intermediate_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    tensors = [("token_embd.weight", (h, c["vocab_size"]), kind), ("output_norm.weight", (h,), F32)]
    for i in range(c["num_hidden_layers"]):
        for part, shape in (("attn_q", (h, q)), ("attn_k", (h, kv)), ("attn_v", (h, kv)), ("attn_output", (q, h)), ("ffn_gate", (h, mlp)), ("ffn_up", (h, mlp)), ("ffn_down", (mlp, h))):
            tensors.append((f"blk.{i}.{part}.weight", shape, kind))
        tensors += [(f"blk.{i}.attn_norm.weight", (h,), F32), (f"blk.{i}.ffn_norm.weight", (h,), F32)]

    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    def value(key, v):
        if isinstance(v, str):
            return text(key) + struct.pack("<I", STRING) + text(v)
        if isinstance(v, float):
            return text(key) + struct.pack("<If", F32_VALUE, v)
        return text(key) + struct.pack("<II", U32, v)

    about = {
        "general.architecture": "llama", "general.alignment": ALIGN, "llama.context_length": c["max_position_embeddings"], "llama.embedding_length": h,
        "llama.block_count": c["num_hidden_layers"], "llama.feed_forward_length": mlp, "llama.attention.head_count": c["num_attention_heads"],
        "llama.attention.head_count_kv": c["num_key_value_heads"], "llama.attention.layer_norm_rms_epsilon": float(c["rms_norm_eps"]),
        "llama.rope.dimension_count": c["head_dim"], "llama.rope.freq_base": float(c["rope_theta"]), "llama.vocab_size": c["vocab_size"],
        "tokenizer.ggml.model": "no_vocab",
    }
    size = {F32: (4, 1), BF16: (2, 1), Q8_0: (34, 32), Q4_0: (18, 32)}
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(about)) + b"".join(value(k, v) for k, v in about.items())
    at, sizes = 0, []
    for name, shape, t in tensors:
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        sizes.append(count // size[t][1] * size[t][0])
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, t, at)
        at += -(-sizes[-1] // ALIGN) * ALIGN
    rng = random.Random(1)
    chunks = {t: random_chunk(t, rng)[0] for t in (F32, kind)}
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGN))
        for (_, _, t), n in zip(tensors, sizes):
            chunk = chunks[t]
            f.write(chunk * (n // len(chunk)) + chunk[: n % len(chunk)] + b"\0" * (-n % ALIGN))


def llama_cpp(args, out, name):
    c = json.loads((HERE / "models" / f"{name}.json").read_text())
    for label, kind in (("bf16", BF16), ("int8", Q8_0), ("int4", Q4_0)):
        if left(args) < 15:
            print(f"llama.cpp {name} {label}: left out, no time", file=sys.stderr)
            return
        with tempfile.NamedTemporaryFile(suffix=".gguf") as f:
            write_gguf(f.name, c, kind)

            def rate(prompt, generate, depth):
                command = [args.llama_bench, "-m", f.name, "-t", str(args.threads), "-p", str(prompt), "-n", str(generate), "-d", str(depth), "-r", "2", "-o", "json"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=max(5, left(args)), check=False)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
                return max(json.loads(done.stdout)[0]["samples_ts"])

            emit(out, "first token, cold", f"{name} {label} {MEMORY}", 1e3 * (MEMORY + QUESTION) / rate(MEMORY + QUESTION, 0, 0), "ms", "llama.cpp")
            emit(out, "first token, warm", f"{name} {label} {MEMORY}", 1e3 * QUESTION / rate(QUESTION, 0, MEMORY), "ms", "llama.cpp")
            emit(out, "decoding", f"{name} {label} over {MEMORY}", rate(0, TOKENS, MEMORY + QUESTION), "tokens/s", "llama.cpp")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", required=True)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--llama-bench", default=shutil.which("llama-bench"))
    p.add_argument("--models", default="smolvlm2-256m")
    p.add_argument("--towers", default="siglip-b16-512")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--seconds", type=float, default=120, help="nothing is begun after them")
    args = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    work = []
    try:
        import torch
        import transformers  # noqa: F401

        torch.set_num_threads(args.threads)
        work += [(tower, n) for n in args.towers.split(",")] + [(decoder, n) for n in args.models.split(",")]
    except ImportError as e:
        print(f"transformers: left out: {e}", file=sys.stderr)
    if args.llama_bench:
        work += [(llama_cpp, n) for n in args.models.split(",")]
    else:
        print("llama.cpp: left out: no llama-bench", file=sys.stderr)
    failed = 0
    with open(args.out, "w") as out:
        for step, name in work:
            if left(args) <= 0:
                print(f"{step.__name__} {name}: left out, no time", file=sys.stderr)
                continue
            try:
                step(args, out, name)
            except Exception as e:  # one peer's trouble is not another's
                failed = 1
                print(f"{step.__name__} {name}: {type(e).__name__}: {e}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())

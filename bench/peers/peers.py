"""Times what others reach on the same GPU in the same run, for `afterimage bench … --peers FILE`.

    python3 bench/peers/peers.py --out peers.jsonl [--only ceilings,prefill,decode,linear,decoder,encoder,first] [--models qwen2-7b,…] [--seconds N]

Writes one JSON object a line: what, shape, value, unit, peer, with the names that internal/compute/bench.go and bench/speed.go give.
Everything is bf16 on random data; attention and whole decoders run as CUDA graphs, operands that a real run would find cold rotate
through more memory than the L2 cache holds, and figures are medians. Compiling is done before the clock starts.

Tested with Python 3.12, torch 2.11.0+cu130 (cuDNN 9.19), transformers 5.17.0, on one NVIDIA H200 with driver 580. Peers:
  cuDNN              torch.nn.functional.scaled_dot_product_attention with SDPBackend.CUDNN_ATTENTION, in a graph
  FlashAttention-2   the same with SDPBackend.FLASH_ATTENTION (torch's own build), in a graph
  torch              torch.nn.functional.linear (cuBLAS), in a graph
  torch.compile      a decoder written for it (below), compiled, static cache, one graph a step; or CLIP from transformers, compiled
  transformers       the library as it comes, eager
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

HERE = pathlib.Path(__file__).resolve().parent
DEV, BF16 = "cuda", torch.bfloat16
L2 = 60 << 20
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FlashAttention-2": SDPBackend.FLASH_ATTENTION}

# (heads, K/V heads, head size, batch, rows, causal), as internal/compute/cuda/bench.go has them.
PREFILL = [(28, 4, 128, 1, n, True) for n in (1024, 4096, 16384)] + [
    (32, 32, 128, 1, 4096, True), (32, 32, 128, 1, 16384, True), (32, 32, 96, 1, 4096, True), (32, 32, 96, 1, 16384, True),
    (16, 16, 80, 1, 4096, False), (16, 16, 80, 1, 16384, False), (16, 16, 64, 16, 577, False), (16, 16, 64, 32, 257, False),
    (16, 16, 72, 16, 729, False), (16, 16, 64, 8, 1025, False), (14, 2, 64, 1, 4096, True)]
# (heads, K/V heads, head size, keys)
DECODE = [(28, 4, 128, n) for n in (1024, 4096, 8192, 11520, 32768, 131072)] + [
    (32, 32, 128, n) for n in (1024, 11520, 32768)] + [(32, 32, 96, n) for n in (1024, 11520, 32768)] + [(14, 2, 64, n) for n in (1024, 11520, 32768)]
CONTEXTS = (681, 11520)


def median_seconds(fn, runs=15):
    """Median of CUDA-event times of fn(), after three calls that do not count."""
    for _ in range(3):
        fn()
    times = []
    for _ in range(runs):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        fn()
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b) / 1e3)
    return statistics.median(times)


def graphed(fn):
    """fn recorded as a CUDA graph; the result replays it."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            fn()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    g = torch.cuda.CUDAGraph()
    with torch.cuda.graph(g):
        fn()
    return g.replay


def emit(out, what, shape, value, unit, peer):
    row = {"what": what, "shape": shape, "value": round(value, 4), "unit": unit, "peer": peer}
    print(json.dumps(row), file=out, flush=True)
    print(f"{what:28} {shape:36} {value:12.3f} {unit:10} {peer}", file=sys.stderr, flush=True)


DEADLINE = float("inf")  # of time.time(); nothing is begun after it


def tried(name, fn):
    """Runs fn; a peer that cannot do a shape is said and left out."""
    if time.time() > DEADLINE:
        print(f"left out: {name}: out of time", file=sys.stderr, flush=True)
        return
    start = time.time()
    try:
        fn()
    except Exception as e:  # whatever a library may raise: the others are still wanted
        print(f"left out: {name}: {type(e).__name__}: {(str(e) or 'no reason given').splitlines()[0][:160]}", file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
    if time.time() - start > 5:
        print(f"{name}: {time.time() - start:.0f} s", file=sys.stderr, flush=True)


def ceilings(out):
    src = torch.randint(0, 255, (2 << 30,), dtype=torch.uint8, device=DEV)
    dst = torch.empty_like(src)
    emit(out, "device copy", "2 GiB", 2 * src.numel() / median_seconds(lambda: dst.copy_(src)) / 1e9, "GB/s", "torch")
    n = 8192
    a, b = torch.randn(n, n, dtype=BF16, device=DEV), torch.randn(n, n, dtype=BF16, device=DEV)
    emit(out, "large matmul", f"{n}x{n}x{n}", 2 * n**3 / median_seconds(lambda: a @ b.T) / 1e12, "TFLOP/s", "torch")


def sdpa(backend, q, k, v, causal, gqa):
    with sdpa_kernel([backend]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa)


def prefill(out):
    for h, kv, d, batch, n, causal in PREFILL:
        shape = f"{h}/{kv} x {d} {'causal' if causal else 'full'} {batch}x{n}"
        flops = 4 * h * d * batch * n * n / (2 if causal else 1)
        sets = [tuple(torch.randn(batch, x, n, d, dtype=BF16, device=DEV) for x in (h, kv, kv)) for _ in range(max(1, min(8, 2 * L2 // (2 * batch * n * d * (h + 2 * kv)))))]
        for peer, backend in BACKENDS.items():
            def one():
                run = graphed(lambda: [sdpa(backend, q, k, v, causal, h != kv) for q, k, v in sets])
                emit(out, "prefill attention", shape, flops * len(sets) / median_seconds(run) / 1e12, "TFLOP/s", peer)
            tried(f"{peer} {shape}", one)


def decode(out):
    for h, kv, d, n in DECODE:
        shape = f"{h}/{kv} x {d} 1 over {n}"
        size = 2 * 2 * kv * d * n
        sets = [tuple(torch.randn(1, kv, n, d, dtype=BF16, device=DEV) for _ in range(2)) for _ in range(max(2, min(64, 3 * L2 // size + 1)))]
        q = torch.randn(1, h, 1, d, dtype=BF16, device=DEV)
        for peer, backend in BACKENDS.items():
            def one():
                run = graphed(lambda: [sdpa(backend, q, k, v, False, h != kv) for k, v in sets])
                emit(out, "decode attention", shape, median_seconds(run) / len(sets) * 1e6, "us", peer)
            tried(f"{peer} {shape}", one)


def linear(out):
    """Products with the weights of a 7B model: of few rows, whose weights rotate, and of many."""
    for n_in, n_out in [(3584, 4608), (3584, 3584), (3584, 18944), (3584, 37888), (18944, 3584), (3584, 152064)]:
        size = 2 * n_in * n_out
        weights = [torch.randn(n_out, n_in, dtype=BF16, device=DEV) * 0.02 for _ in range(max(4, min(64, 3 * L2 // size + 1)))]
        for rows in (1, 8, 32):
            def one():
                x = torch.randn(rows, n_in, dtype=BF16, device=DEV)
                run = graphed(lambda: [F.linear(x, w) for w in weights])
                emit(out, "linear", f"bf16 {rows}x{n_in}x{n_out}", size * len(weights) / median_seconds(run) / 1e9, "GB/s", "torch")
            tried(f"linear {rows}x{n_in}x{n_out}", one)
    for rows, n_in, n_out in [(4096, 3584, 4608), (4096, 3584, 37888), (4096, 18944, 3584), (8224, 1024, 4096), (8224, 4096, 1024)]:
        def one():
            x, w = torch.randn(rows, n_in, dtype=BF16, device=DEV), torch.randn(n_out, n_in, dtype=BF16, device=DEV) * 0.02
            run = graphed(lambda: [F.linear(x, w) for _ in range(20)])
            emit(out, "linear", f"bf16 {rows}x{n_in}x{n_out}", 20 * 2 * rows * n_in * n_out / median_seconds(run, 7) / 1e12, "TFLOP/s", "torch")
        tried(f"linear {rows}x{n_in}x{n_out}", one)


class Block(torch.nn.Module):
    """One decoder layer on a static cache: qkv, rotary turn, attention, SwiGLU."""

    def __init__(self, c, backend):
        super().__init__()
        self.h, self.kv, self.d, self.eps, self.backend = c["heads"], c["kv"], c["dim"], c["eps"], backend
        hidden, mlp = c["hidden"], c["mlp"]

        def weight(o, i):
            return torch.nn.Parameter(torch.randn(o, i, dtype=BF16, device=DEV) * i**-0.5, requires_grad=False)

        self.qkv, self.out = weight((self.h + 2 * self.kv) * self.d, hidden), weight(hidden, self.h * self.d)
        self.gate_up, self.down = weight(2 * mlp, hidden), weight(hidden, mlp)
        self.bias = torch.nn.Parameter(torch.zeros((self.h + 2 * self.kv) * self.d, dtype=BF16, device=DEV), requires_grad=False) if c["bias"] else None
        self.n1, self.n2 = (torch.nn.Parameter(torch.ones(hidden, dtype=BF16, device=DEV), requires_grad=False) for _ in range(2))

    def forward(self, x, cos, sin, at, k, v):
        rows = x.shape[0]
        y = F.linear(F.rms_norm(x, (x.shape[-1],), self.n1, self.eps), self.qkv, self.bias).view(rows, -1, self.d)
        q, nk, nv = y.split([self.h, self.kv, self.kv], 1)
        turn = lambda t: t * cos + torch.cat([-t[..., self.d // 2:], t[..., : self.d // 2]], -1) * sin
        q, nk = turn(q), turn(nk)
        k.index_copy_(2, at, nk.transpose(0, 1)[None])
        v.index_copy_(2, at, nv.transpose(0, 1)[None])
        o = sdpa(self.backend, q.transpose(0, 1)[None], k, v, rows > 1, self.h != self.kv)
        x = x + F.linear(o[0].transpose(0, 1).reshape(rows, -1), self.out)
        g, u = F.linear(F.rms_norm(x, (x.shape[-1],), self.n2, self.eps), self.gate_up).chunk(2, -1)
        return x + F.linear(F.silu(g) * u, self.down)


def shape_of(name):
    c = json.loads((HERE / "models" / f"{name}.json").read_text())
    heads = c["num_attention_heads"]
    return dict(hidden=c["hidden_size"], layers=c["num_hidden_layers"], heads=heads, kv=c.get("num_key_value_heads", heads), mlp=c["intermediate_size"],
                dim=c.get("head_dim") or c["hidden_size"] // heads, vocab=c["vocab_size"], eps=c["rms_norm_eps"], bias=c["model_type"] == "qwen2",
                theta=c.get("rope_theta", 10000.0), tied=c.get("tie_word_embeddings", False))


def decoder(out, names):
    """A whole step, token in and token out, greedy: layers compiled, then everything recorded as one graph a context length."""
    for name in names:
        def one():
            c = shape_of(name)
            backend = SDPBackend.CUDNN_ATTENTION
            torch._dynamo.reset()
            blocks = torch.nn.ModuleList(Block(c, backend) for _ in range(c["layers"]))
            embed = torch.randn(c["vocab"], c["hidden"], dtype=BF16, device=DEV)
            head = embed if c["tied"] else torch.randn(c["vocab"], c["hidden"], dtype=BF16, device=DEV) * c["hidden"] ** -0.5
            norm = torch.ones(c["hidden"], dtype=BF16, device=DEV)
            freq = c["theta"] ** -(torch.arange(0, c["dim"], 2, device=DEV) / c["dim"])

            # Layers are alike, so one is compiled, which takes seconds instead of minutes; nothing is fused across them anyway.
            layer = torch.compile(lambda b, *args: b(*args), dynamic=False)
            start = torch.compile(lambda token, at: (embed[token], *turns(at)), dynamic=False)
            end = torch.compile(lambda x: F.linear(F.rms_norm(x[-1:], (c["hidden"],), norm, c["eps"]), head).argmax(-1), dynamic=False)

            def turns(at):
                angle = torch.cat([at[:, None] * freq] * 2, -1)[:, None]
                return angle.cos().to(BF16), angle.sin().to(BF16)

            def step(token, at, caches):
                x, cos, sin = start(token, at)
                for b, (k, v) in zip(blocks, caches):
                    x = layer(b, x, cos, sin, at, k, v)
                return end(x)

            for context in CONTEXTS:
                with torch.no_grad():
                    caches = [tuple(torch.randn(1, c["kv"], context, c["dim"], dtype=BF16, device=DEV) for _ in range(2)) for _ in blocks]
                    token = torch.tensor([1], device=DEV)
                    at = torch.tensor([context - 1], device=DEV)
                    run = graphed(lambda: token.copy_(step(token, at, caches)))
                    emit(out, "decoding", f"{name} bf16 over {context}", 1 / median_seconds(run), "tokens/s", "torch.compile, graphed")
                    del caches, run
                    torch.cuda.empty_cache()
        tried(name, one)
        torch.cuda.empty_cache()


def first(out, names):
    """Transformers' prefill of the whole prompt, which is what it does for each question about a memory that has changed."""
    from transformers import AutoConfig, AutoModelForCausalLM
    for name in names:
        def one():
            raw = json.loads((HERE / "models" / f"{name}.json").read_text())
            kind = raw.pop("model_type")
            with torch.device(DEV):
                m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **raw), dtype=BF16, attn_implementation="sdpa").eval()
            for context in CONTEXTS:
                ids = torch.randint(0, 1000, (1, context), device=DEV)
                with torch.no_grad():
                    t = median_seconds(lambda: m(ids, use_cache=True, logits_to_keep=1).logits.argmax(-1), runs=5)
                emit(out, "first token, cold", f"{name} bf16 {context}", t * 1e3, "ms", "transformers")
            del m
        tried(name, one)
        torch.cuda.empty_cache()


def encoder(out, names):
    """Pixels that are ready on the GPU to the tower's rows. SigLIP's config says 378 where the model is fed 384: its last six pixels are never looked at."""
    from transformers import AutoConfig, AutoModel
    for name in names:
        raw = json.loads((HERE / "models" / f"{name}.json").read_text())
        kind = raw.pop("model_type")
        side = raw["image_size"] if isinstance(raw["image_size"], int) else raw["image_size"][0]

        def one(batch):
            torch._dynamo.reset()
            with torch.device(DEV):
                if kind == "qwen2_vl_vision":
                    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
                    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
                    m = Qwen2VisionTransformerPretrainedModel._from_config(Qwen2VLVisionConfig(**raw), dtype=BF16, attn_implementation="sdpa").eval()
                    patches = side // raw["patch_size"]
                    x = (torch.randn(batch * patches**2, 3 * raw["temporal_patch_size"] * raw["patch_size"] ** 2, dtype=BF16, device=DEV),
                         torch.tensor([[1, patches, patches]] * batch, device=DEV))
                else:
                    m = AutoModel.from_config(AutoConfig.for_model(kind, **raw), dtype=BF16, attn_implementation="sdpa").eval()
                    x = (torch.randn(batch, 3, side, side, dtype=BF16, device=DEV),)
            emit(out, "encoding", f"{name} batch {batch}", batch / median_seconds(lambda: m(*x)), "frames/s", "transformers")
            fast = torch.compile(m, dynamic=False)
            run = graphed(lambda: fast(*x).last_hidden_state)
            emit(out, "encoding", f"{name} batch {batch}", batch / median_seconds(run), "frames/s", "torch.compile")

        tried(name, lambda: one(32))
        torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="ceilings,prefill,decode,linear,decoder,encoder,first")
    parser.add_argument("--models", default="qwen2-7b,qwen2-0.5b,llama-7b,phi-3-mini,qwen2-1.5b")
    parser.add_argument("--towers", default="clip-vit-l-14-224,clip-vit-l-14-336,siglip-so400m-384,internvit-300m-448,qwen2-vl-vit")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long; the rows until then are kept")
    o = parser.parse_args()
    global DEADLINE
    DEADLINE = time.time() + o.seconds
    torch._dynamo.config.cache_size_limit = 64
    parts, models, towers = o.only.split(","), o.models.split(","), o.towers.split(",")
    torch.set_grad_enabled(False)
    start = time.time()
    with open(o.out, "w") as out:
        for part in parts:
            {"ceilings": lambda: ceilings(out), "prefill": lambda: prefill(out), "decode": lambda: decode(out), "linear": lambda: linear(out), "encoder": lambda: encoder(out, towers),
             "decoder": lambda: decoder(out, models), "first": lambda: first(out, models)}[part]()
            torch.cuda.empty_cache()
            print(f"{part}: {time.time() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

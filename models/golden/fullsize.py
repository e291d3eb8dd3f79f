"""Writes a checkpoint of a published model's full size with random weights: python fullsize.py CONFIG.json TOKENIZER.json DIR

For trying whether a model of that size loads and runs on a machine, within what memory and how fast, where its own weights cannot be had. CONFIG is
one of hub/configs, TOKENIZER a tokenizer.json with the family's special tokens, such as that of testdata/qwen2vl; the shapes come from transformers.

torch==2.11.0 transformers==5.17.0 safetensors==0.8.0
"""

import json
import pathlib
import shutil
import sys
import tempfile

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

SHARD = 4 << 30  # bytes


def shapes(config):
    """Names and shapes of all parameters, as transformers saves them; nothing is allocated. A tied head is left out."""
    with tempfile.TemporaryDirectory() as d:
        (pathlib.Path(d) / "config.json").write_text(json.dumps(config))
        c = AutoConfig.from_pretrained(d)
    auto = AutoModelForImageTextToText if hasattr(c, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(c)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def main(config, tokenizer, out):
    config = json.loads(pathlib.Path(config).read_text())
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shutil.copy(tokenizer, out / "tokenizer.json")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(1)
    shard, shards, size, total, index = {}, 0, 0, 0, {}

    def flush():
        nonlocal shard, shards, size
        if shard:
            shards += 1
            save_file(shard, out / f"model-{shards:05d}.safetensors")
            index.update({name: f"model-{shards:05d}.safetensors" for name in shard})
        shard, size = {}, 0

    for name, shape in shapes(config).items():
        deviation = 0.02 if len(shape) > 1 else 0.0
        t = torch.randn(shape, generator=generator, device=device, dtype=torch.float32) * deviation + ("norm" in name and name.endswith("weight"))
        shard[name] = t.to(torch.bfloat16).cpu()
        size += 2 * t.numel()
        total += 2 * t.numel()
        if size > SHARD:
            flush()
    flush()
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}))
    print(json.dumps({"tensors": len(index), "bytes": total, "shards": shards}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Writes a model as bf16 safetensors in shards of less than 15 MiB, with the index of Hugging Face directories."""

import json
import os
import shutil

import torch
from safetensors.torch import save_file

LIMIT = 14 * 2**20


def save(model, folder, learned=None):
    """learned: modules.Memory, which goes into memory.safetensors."""
    tmp = folder + ".tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    shards, size = [{}], 0
    for k, v in model.state_dict().items():
        v = v.detach().to(torch.bfloat16).cpu().contiguous()
        n = v.numel() * 2
        if size + n > LIMIT and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][k] = v
        size += n
    where = {}
    for i, s in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_file(s, os.path.join(tmp, name), metadata={"format": "pt"})
        where.update({k: name for k in s})
    config = model.c.hf()
    if learned is not None:
        config["memory_config"] = learned.c.hf()
        save_file({f"memory.{k}": v.detach().to(torch.bfloat16).cpu().contiguous() for k, v in learned.state_dict().items()}, os.path.join(tmp, "memory.safetensors"),
                  metadata={"format": "pt"})
    with open(os.path.join(tmp, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": sum(v.numel() * 2 for v in model.state_dict().values())}, "weight_map": where, "config": config}, f, indent=1)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(tmp, folder)

"""Joins the shards of a run into models/default, with its memory where it has one. Usage: merge.py COLLECTED MODELS_DEFAULT [NOTE [PART:COLLECTED]],
where PART of the memory (bridge) is taken from another run."""

import glob
import json
import os
import sys

from safetensors import safe_open
from safetensors.torch import load_file, save_file


def main(src, dst, note="", *parts):
    with open(os.path.join(src, "model.safetensors.index.json")) as f:
        index = json.load(f)
    tensors = {}
    for name in sorted(glob.glob(os.path.join(src, "model-*.safetensors"))):
        tensors.update(load_file(name))
    assert set(tensors) == set(index["weight_map"]), "shards and index differ"
    with open(os.path.join(src, "curves.json")) as f:
        curve = json.load(f)
    last = {p["set"]: p for p in curve["points"]}
    learned = os.path.join(src, "memory.safetensors")
    made = {"format": "pt", "made_by": "models/train/" + ("tune.py, from the weights that train.py made" if os.path.exists(learned) else "train.py"), "seconds": str(curve["seconds"]), "steps": str(curve["points"][-1]["step"]),
            "data": "ingest/simcam seeds below 100000", "note": note,
            "held_out": json.dumps({k: {t: v for t, v in p["types"].items()} for k, p in last.items() if k not in ("train", "drift")})}
    os.makedirs(dst, exist_ok=True)
    path = os.path.join(dst, "model.safetensors")
    save_file({k: v.contiguous() for k, v in sorted(tensors.items())}, path, metadata=made)
    os.chmod(path, 0o644)
    if os.path.exists(learned):
        memory, rows = os.path.join(dst, "memory.safetensors"), load_file(learned)
        for part, folder in (p.split(":", 1) for p in parts):
            rows |= {k: v for k, v in load_file(os.path.join(folder, "memory.safetensors")).items() if k.startswith(f"memory.{part}.")}
        save_file({k: v.contiguous() for k, v in sorted(rows.items())}, memory, metadata={k: v for k, v in made.items() if k != "held_out"})
        os.chmod(memory, 0o644)
        assert os.path.getsize(memory) < 45 * 2**20
    with open(os.path.join(dst, "config.json"), "w") as f:
        json.dump(index["config"], f, indent=2)
        f.write("\n")
    with safe_open(path, "pt") as f:
        n = sum(f.get_slice(k).get_shape() != [] for k in f.keys())
    size = os.path.getsize(path)
    assert size < 45 * 2**20, size
    print(f"{path}: {n} tensors, {size / 2**20:.1f} MiB, {sum(v.numel() for v in tensors.values()) / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main(*sys.argv[1:])

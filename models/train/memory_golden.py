"""What PyTorch computes with a tiny memory of random weights, in fp32, for another implementation to be held against.
Usage: memory_golden.py OUT.safetensors

The weights have the names of memory.safetensors; metadata "memory_config" and "hidden_size" describe them. Beside them:
indicator.rows [46,d], indicator.sizes i32 [4]: four sets of rows one behind the other; indicator.want [4,dim].
query.tokens [8,d], query.sizes i32 [2]: two questions, embedded; query.want [2,dim]; query.summary [8,d] and query.with [2,dim]: with that before them.
stream.frames [21,8,d] in clips of stream.sizes (8, 8, 5); stream.start [3,d], stream.at [3,3,d]: time tokens, embedded, of the history and of
each clip; stream.segment [d]: <|segment|>, embedded; stream.summary [3,8,d], stream.indicator [3,dim].
bridge.frames [26,8,d] in segments of bridge.sizes (5, 8, 13: the last is thinned to the frames 0 2 4 5 7 8 10 12, see Bridge.thinned; its mean
is that of the thinned frames); bridge.memory [3,8,d], bridge.shown [21,8,d]: the rows of the frames; bridge.recalled [3,8,d].
many.frames [35,8,d]: as many segments of one frame, so that the cache of 32 loses its oldest; many.memory [8,d], many.recalled [8,d]: the last's."""

import json
import os
import sys

import torch
from safetensors.torch import save_file

import modules

CONFIG = modules.Config(width=32, indicator_hidden=40, indicator_dim=16, heads=2, kv_heads=1, head_dim=16, mlp=48, bridge_heads=2, bridge_mlp=40)


def clips(m, frames, sizes, start, at, segment):
    """The recurrence of Stream over the clips of one stream: summaries and indicators."""
    out, k, h = [], 0, torch.zeros(1, modules.ROWS, frames.shape[-1])
    for i, n in enumerate(sizes):
        h, ind = m.stream.clip(h, torch.tensor([i > 0]), start[None], at[i][None], frames[k:k + n][None], torch.tensor([n]), segment)
        out.append((h[0], ind[0]))
        k += n
    return (torch.stack(x) for x in zip(*out))


def segments(m, frames, sizes):
    """The recurrence of Bridge over the segments of one stream: memories, rows of the frames shown, what was recalled after each."""
    k, cache, shown, recalled = 0, [], [], [torch.zeros(1, modules.ROWS, frames.shape[-1])]
    for n in sizes:
        rows = frames[k:k + n][modules.Bridge.thinned(n)][None]
        mem, v = m.bridge.segment(rows, torch.tensor([rows.shape[1]]), recalled[-1])
        cache.append(mem)
        last = torch.stack(cache[-modules.Bridge.CACHE:], 1)
        recalled.append(m.bridge.recall(mem, last, torch.ones(1, last.shape[1], dtype=torch.bool)))
        shown.append(v[0])
        k += n
    return torch.cat(cache), torch.cat(shown), torch.cat(recalled[1:])


@torch.no_grad()
def main(out):
    torch.manual_seed(7)
    m = modules.Memory(CONFIG).eval()
    for p in m.parameters():
        p.add_(0.1 * torch.randn_like(p))
    d = CONFIG.width
    g = {f"memory.{k}": v for k, v in m.state_dict().items()}

    sizes = [8, 1, 32, 5]
    g["indicator.rows"], g["indicator.sizes"] = torch.randn(sum(sizes), d), torch.tensor(sizes, dtype=torch.int32)
    g["indicator.want"] = torch.stack([m.indicator(r) for r in g["indicator.rows"].split(sizes)])

    sizes = [7, 1]
    g["query.tokens"], g["query.sizes"], g["query.summary"] = torch.randn(sum(sizes), d), torch.tensor(sizes, dtype=torch.int32), torch.randn(8, d)
    one = torch.ones(1, dtype=torch.bool)
    g["query.want"] = torch.cat([m.stream.query(t[None], torch.tensor([len(t)])) for t in g["query.tokens"].split(sizes)])
    g["query.with"] = torch.cat([m.stream.query(t[None], torch.tensor([len(t)]), g["query.summary"][None], one) for t in g["query.tokens"].split(sizes)])

    sizes = [8, 8, 5]
    g["stream.frames"], g["stream.sizes"] = torch.randn(sum(sizes), 8, d), torch.tensor(sizes, dtype=torch.int32)
    g["stream.start"], g["stream.at"], g["stream.segment"] = torch.randn(3, d), torch.randn(3, 3, d), torch.randn(d)
    g["stream.summary"], g["stream.indicator"] = clips(m, g["stream.frames"], sizes, g["stream.start"], g["stream.at"], g["stream.segment"])

    sizes = [5, 8, 13]
    g["bridge.frames"], g["bridge.sizes"] = torch.randn(sum(sizes), 8, d), torch.tensor(sizes, dtype=torch.int32)
    g["bridge.memory"], g["bridge.shown"], g["bridge.recalled"] = segments(m, g["bridge.frames"], sizes)
    g["many.frames"] = torch.randn(35, 8, d)
    mem, _, rec = segments(m, g["many.frames"], [1] * 35)
    g["many.memory"], g["many.recalled"] = mem[-1], rec[-1]

    save_file({k: v.contiguous() for k, v in g.items()}, out, metadata={"format": "pt", "hidden_size": str(d), "memory_config": json.dumps(CONFIG.hf()),
              "made_by": "models/train/memory_golden.py: random weights, no training"})
    os.chmod(out, 0o644)
    print(f"{out}: {len(g)} tensors, {os.path.getsize(out) / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1])

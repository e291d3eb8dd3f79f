"""An independent reference for Composite, in NumPy, that remembers every frame: writes composite_golden.json.

    python make_composite_golden.py

The coarse past is worked out at every step from the number of frames alone, its rows and the past's from all their members.
"""

import json

import numpy as np

PAST, UNIT, RECENT, DIM, FRAMES = 7, 3, 2, 5, 170
rng = np.random.default_rng(11)

scenes = rng.normal(size=(4, 4 * 4, DIM))
order = [(0, 25), (1, 4), (0, 30), (2, 1), (0, 21), (3, 40), (1, 9), (2, 40)]
frames = np.concatenate([np.repeat(scenes[s][None], n, 0) for s, n in order])
assert len(frames) == FRAMES
frames = np.round(frames + rng.normal(size=frames.shape) * np.linspace(0.3, 0.02, FRAMES)[:, None, None], 3).astype(np.float32)
times = np.cumsum(rng.integers(300, 700, FRAMES)).tolist()  # milliseconds
pooled = frames.reshape(FRAMES, 2, 2, 2, 2, DIM).mean(axis=(2, 4), dtype=np.float64).reshape(FRAMES, 4, DIM)


def cost(a, b):
    return len(a) * len(b) / (len(a) + len(b)) * np.sum((pooled[a].mean(axis=(0, 1)) - pooled[b].mean(axis=(0, 1))) ** 2)


def coarse(n):
    """Spans of n frames: of each size one or two, as few as that allows, the largest first; then what is not a whole unit."""
    full, sizes, size = n // UNIT, [], 1
    while full:
        here = 2 - full % 2
        sizes = [size] * here + sizes
        full, size = (full - here) // 2, 2 * size
    spans, at = [], 0
    for s in sizes:
        spans.append(list(range(at, at + s * UNIT)))
        at += s * UNIT
    return spans + ([list(range(at, n))] if at < n else [])


def entries(spans, rows):
    return {
        "start": [times[s[0]] for s in spans],
        "end": [times[s[-1]] for s in spans],
        "weight": [len(s) for s in spans],
        "rows": [np.round(pooled[s].mean(axis=0), 6).ravel().tolist() for s in spans] if rows else None,
    }


past, states = [], []
for f in range(FRAMES):
    gone = f - RECENT  # frames that have left the newest ones
    if gone > 0:
        past.append([gone - 1])
        if len(past) > PAST:
            i = int(np.argmin([cost(a, b) for a, b in zip(past, past[1:])]))
            past[i : i + 2] = [past[i] + past[i + 1]]
    whole = f % 20 == 19 or f < 5
    states.append(
        {
            "coarse": entries(coarse(max(gone, 0)), whole),
            "past": entries(past, whole),
            "recent": entries([[i] for i in range(max(f - RECENT, 0), f + 1)], whole),
        }
    )
with open("composite_golden.json", "w") as out:
    json.dump(
        {
            "past": PAST,
            "unit": UNIT,
            "recent": RECENT,
            "dim": DIM,
            "times": times,
            "frames": [[float(f"{v:.3f}") for v in f.ravel()] for f in frames],
            "states": states,
        },
        out,
        separators=(",", ":"),
    )
    out.write("\n")

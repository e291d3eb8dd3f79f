"""An independent reference for Flash, in NumPy, that remembers every frame: writes flash_golden.json.

    python make_flash_golden.py

It keeps the members of each cluster and works out means and costs from scratch at every step, where the Go code carries them.
"""

import json

import numpy as np

K, D, H, W, DIM, FRAMES = 8, 3, 4, 4, 6, 160
rng = np.random.default_rng(7)

# Scenes of different length, some of which come back, with noise that grows and shrinks.
scenes = rng.normal(size=(5, H * W, DIM))
order = [(0, 30), (1, 3), (0, 12), (2, 40), (3, 1), (2, 9), (4, 25), (1, 20), (0, 20)]
frames = np.concatenate([np.repeat(scenes[s][None], n, 0) for s, n in order])
assert len(frames) == FRAMES
frames = frames + rng.normal(size=frames.shape) * np.linspace(0.02, 0.4, FRAMES)[:, None, None]
frames = np.round(frames, 3).astype(np.float32)
times = np.cumsum(rng.integers(300, 700, FRAMES)).tolist()  # milliseconds

pooled = frames.reshape(FRAMES, H // 2, 2, W // 2, 2, DIM).mean(axis=(2, 4), dtype=np.float64).reshape(FRAMES, -1)


def centre(members):
    return pooled[members].mean(axis=0)


def gist(members):
    return centre(members).reshape(-1, DIM).mean(axis=0)


def cost(a, b):
    return len(a) * len(b) / (len(a) + len(b)) * np.sum((gist(a) - gist(b)) ** 2)


clusters = []  # (members, exemplar)
states = []
closest = np.inf
for f in range(FRAMES):
    clusters.append(([f], f))
    if len(clusters) > K:
        costs = np.array([cost(a[0], b[0]) for a, b in zip(clusters, clusters[1:])])
        closest = min(closest, np.diff(np.sort(costs)[:2])[0] / np.sort(costs)[1])
        i = int(np.argmin(costs))
        (a, ea), (b, eb) = clusters[i], clusters[i + 1]
        c = centre(a + b)
        da, db = np.sum((pooled[ea] - c) ** 2), np.sum((pooled[eb] - c) ** 2)
        near = ea if da <= db * (1 + 1e-9) else eb  # two single frames are equally far, but for rounding
        clusters[i : i + 2] = [(a + b, near)]
    heavy = sorted(sorted(range(len(clusters)), key=lambda i: -len(clusters[i][0]))[:D])
    states.append(
        {
            "start": [times[m[0]] for m, _ in clusters],
            "end": [times[m[-1]] for m, _ in clusters],
            "weight": [len(m) for m, _ in clusters],
            "at": [times[e] for _, e in clusters],
            "detail": [times[clusters[i][1]] for i in heavy],
            "rows": [np.round(centre(m), 6).tolist() for m, _ in clusters] if f % 20 == 19 or f < 3 else None,
        }
    )
print(f"the closest choice was {closest:.1e} apart, relatively")
with open("flash_golden.json", "w") as out:
    json.dump(
        {
            "synopsis": K,
            "detail": D,
            "grid": [H, W],
            "dim": DIM,
            "times": times,
            "frames": [[float(f"{v:.3f}") for v in f.ravel()] for f in frames],
            "states": states,
        },
        out,
        separators=(",", ":"),
    )
    out.write("\n")

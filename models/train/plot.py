"""Draws a run. Usage: plot.py curves.json curves.png"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(src, dst):
    with open(src) as f:
        pts = json.load(f)["points"]
    train = [p for p in pts if p["set"] == "train" and p["types"]]
    starts = [next((p["t"] for p in pts if p["stage"] == s), None) for s in (2, 3)]
    fig, (a, b) = plt.subplots(2, 1, figsize=(11, 9), sharex=True)
    a.semilogy([p["t"] for p in train], [p["loss"] for p in train], color="black")
    a.set_ylabel("training loss")
    b.set_ylabel("answers exactly right, held-out seeds")
    names = sorted({n for p in pts if p["set"] not in ("train",) for n in p["types"]})
    colour = {n: plt.cm.tab20(i % 20) for i, n in enumerate(names)}
    for style, which in ((":", "short clips"), ("-", "memory")):
        ps = [p for p in pts if p["set"] == which]
        for n in names:
            q = [(p["t"], p["types"][n][1]) for p in ps if n in p["types"]]
            if q:
                b.plot(*zip(*q), style, color=colour[n], label=n if which == "memory" else None)
    cap = [p for p in train if "caption_fine" in p["types"]]
    for n, c in (("caption_fine", "black"), ("caption_synopsis", "grey")):
        b.plot([p["t"] for p in cap], [p["types"].get(n, [0, float("nan")])[1] for p in cap], "--", color=c, label=n.replace("_", ", ") + " (training)")
    for x in (a, b):
        x.grid(alpha=.3)
        for s, name in zip(starts, ("short clips", "exact memory")):
            if s:
                x.axvline(s, color="grey", lw=1)
                x.annotate(name, (s, 1.01), xycoords=("data", "axes fraction"), fontsize=8)
    b.set_ylim(0, 1.02)
    b.set_xlabel("seconds of training")
    b.legend(fontsize=7, ncol=3, loc="lower right")
    fig.tight_layout()
    fig.savefig(dst, dpi=90)


if __name__ == "__main__":
    main(*sys.argv[1:3])

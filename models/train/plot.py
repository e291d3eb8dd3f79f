"""Draws a run. Usage: plot.py curves.json curves.png"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def tuned(pts, dst):
    """A run of tune.py: loss, training answers by family, held-out closed answers by layout."""
    train = [p for p in pts if p.get("families")]
    fig, axes = plt.subplots(1, 3, figsize=(17, 6))
    axes[0].plot([p["t"] for p in train], [p["loss"] for p in train], color="black")
    axes[0].set_title("training loss, answers")
    for i, n in enumerate(train[-1]["families"]):
        axes[1].plot([p["t"] for p in train], [p["families"][n][1] for p in train], "--" if n.startswith("search") else "-", color=plt.cm.tab20(i), label=n)
    axes[1].set_title("training: answers exactly right that were shown; searches: the nearest is right")
    for i, n in enumerate(sorted({p["set"] for p in pts if p["set"].endswith("1 h")})):
        closed = []
        for p in pts:
            if p["set"] == n:
                some = [v for k, v in p["types"].items() if k.split("@")[0] in CLOSED]
                closed.append((p["t"], sum(k * v for k, v in some) / max(1, sum(k for k, _ in some))))
        axes[2].plot(*zip(*closed), "o-", ms=3, color=plt.cm.tab20(i % 20), label=n.removesuffix(", 1 h"))
    axes[2].set_title("held-out hours: closed answers exactly right")
    for x in axes:
        x.grid(alpha=.3)
        x.set_xlabel("seconds of training")
    for x in axes[1:]:
        x.legend(fontsize=7, ncol=2)
    fig.tight_layout()
    fig.savefig(dst, dpi=70)


CLOSED = ("event_occurrence", "sequence_validation", "counting", "attribute", "direction", "which", "current_state", "past_state")


def main(src, dst):
    with open(src) as f:
        pts = json.load(f)["points"]
    if any(p.get("families") for p in pts):
        return tuned(pts, dst)
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

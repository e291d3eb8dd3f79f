"""Worker processes, and the threads that make batches of their items."""

import os
import pickle
import queue
import subprocess
import sys
import threading

import numpy as np
import torch

from data import DOCS, NF, P1

HERE = os.path.dirname(os.path.abspath(__file__))


class Types:
    """Numbers for the names of question types, shared by all builders."""

    def __init__(self):
        self.names, self.lock = [], threading.Lock()

    def number(self, names):
        with self.lock:
            for n in names:
                if n not in self.names:
                    self.names.append(n)
            return np.array([self.names.index(n) for n in names] or [0], np.int16)


class Pool:
    """n processes of data.py and their items."""

    def __init__(self, mode, n, q, feeder, tokenizer, feeder_args, first=0, log=None, extra=(), depth=48):
        self.q, self.alive, self.stopped = queue.Queue(depth), n, False
        self.procs = []
        for i in range(n):
            cmd = [sys.executable, os.path.join(HERE, "data.py"), mode, "--feeder", feeder, "--tokenizer", tokenizer, "--seed", str(first + i),
                   "--q", str(q), *extra, "--", *feeder_args, "-seed", str(first + i), "-step", str(n)]
            p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=log, bufsize=0)
            self.procs.append(p)
            threading.Thread(target=self._read, args=(p,), daemon=True).start()

    def _read(self, p):
        def exact(n):
            b, at = bytearray(n), 0
            v = memoryview(b)
            while at < n:
                k = p.stdout.readinto(v[at:])
                if not k:
                    raise EOFError
                at += k
            return b

        try:
            while not self.stopped:
                item = pickle.loads(exact(int.from_bytes(exact(8), "little")))
                while not self.stopped:
                    try:
                        self.q.put(item, timeout=1)
                        break
                    except queue.Full:
                        pass
        except EOFError:
            pass
        self.alive -= 1

    def get(self):
        while True:
            try:
                return self.q.get(timeout=2)
            except queue.Empty:
                if self.alive <= 0:
                    raise RuntimeError("all data workers ended")

    def stop(self):
        self.stopped = True
        for p in self.procs:
            p.kill()


def pack_prims(items, pad):
    """One table of prims and one of frames for many items; frames padded to `pad` with empty pictures."""
    prims, metas, at = [], [], 0
    for it in items:
        f = it["frames"]
        m = np.empty((len(f), 4), np.int32)
        m[:, 0] = at + it["so"] if "so" in it else at
        m[:, 1] = it["sn"] if "sn" in it else len(it["static"])
        m[:, 2] = at + len(it["static"]) + f[:, 1].astype(np.int32)
        m[:, 3] = f[:, 2].astype(np.int32)
        prims += [it["static"], it["dyn"]]
        metas.append(m)
        at += len(it["static"]) + len(it["dyn"])
    frames = np.concatenate([it["frames"] for it in items])
    n = len(frames)
    assert n <= pad, (n, pad)
    out = {"prims": np.concatenate(prims), "frames": np.zeros((pad, 24), np.float32), "meta": np.zeros((pad, 4), np.int32)}
    out["frames"][:n], out["meta"][:n] = frames, np.concatenate(metas)
    return out


def looks(rng, counts, pad):
    """How a camera shows its pictures: aug for kernels.render, blur and codec step for kernels.degrade; one draw for each of counts
    frames in a row."""
    n = len(counts)
    a = np.zeros((n, 10), np.float32)
    a[:, :3] = np.exp(rng.normal(0, .06, (n, 1))) * (1 + rng.normal(0, .02, (n, 3)))
    a[:, 3] = rng.normal(0, .012, n)
    a[:, 4] = 1 + rng.normal(0, .05, n)
    a[:, 5] = rng.uniform(.05, .5, n)  # a model pixel averages 7 pixels, a codec smooths: a clean picture has 0.38
    a[:, 6] = rng.integers(0, 1 << 22, n)
    a[:, 8] = rng.uniform(0, .7, n) * (rng.random(n) < .7)
    a[:, 9] = rng.uniform(0, .06, n) * (rng.random(n) < .75)
    a = np.repeat(a, counts, 0)
    a = np.concatenate((a, np.tile(np.array([[1, 1, 1, 0, 1, 0, 0, 0, 0, 0]], np.float32), (pad - len(a), 1))))
    return {"aug": np.ascontiguousarray(a[:, :8]), "blur": a[:, 8].copy(), "step": a[:, 9].copy()}


def stack(items, types, keys=("tok", "lab", "pos", "doc", "grp", "wt")):
    out = {k: np.concatenate([it[k] for it in items]) for k in keys}
    out["dtype"] = np.concatenate([np.where(it["dtype"] >= 0, types.number(it["types"])[np.maximum(it["dtype"], 0)], -1) for it in items]).astype(np.int16)
    return out


def build_frames(pool, types, rng, b):
    """b sequences of NF pictures."""
    items, n = [], 0
    while n < b:
        it = pool.get()
        items.append(it)
        n += len(it["tok"])
    cut = len(items[-1]["tok"]) - (n - b)  # sequences to keep of the last
    last = dict(items[-1])
    for k in ("tok", "lab", "pos", "doc", "grp", "wt", "dtype", "ptok", "plevel", "pvis", "ppos", "pgrp"):
        last[k] = last[k][:cut]
    for k in ("frames", "so", "sn", "look"):
        last[k] = last[k][: cut * NF]
    items[-1] = last
    out = {**pack_prims(items, b * NF), **looks(rng, np.ones(b * NF, int), b * NF), **stack(items, types)}
    for k in ("ptok", "plevel", "ppos", "pgrp"):
        out[k] = np.concatenate([it[k] for it in items])
    out["look"] = np.concatenate([it["look"] for it in items])
    vis = np.concatenate([it["pvis"] for it in items]).astype(np.int64)
    frame, row = np.arange(b)[:, None] * NF + vis // 40, vis % 40
    out["vidx"] = np.where(out["plevel"] == 2, frame * 8 + row - 32, frame * 32 + row)
    assert out["ptok"].shape == (b, P1) and out["dtype"].shape == (b, DOCS)
    return out


def build_clips(items, types, rng, pad):
    """All frames and snapshots of some clips."""
    counts = [len(it["frames"]) for it in items]
    base = np.cumsum([0, *counts])[:-1]
    shots = [len(it["snap"]) for it in items]
    first = np.cumsum([0, *shots])[:-1]
    out = {**pack_prims(items, pad), **looks(rng, counts, pad), **stack(items, types)}
    out["clips"] = np.stack((base, counts, np.zeros_like(base), first, shots), 1).astype(np.int32)  # K is set later
    out["snap"] = np.concatenate([it["snap"] for it in items]).astype(np.int32)
    out["clip_of"] = np.repeat(np.arange(len(items)), shots)
    for k in ("ev", "evn", "qat", "seek"):
        if k in items[0]:
            out[k] = np.concatenate([it[k] for it in items])
    sec = np.zeros(pad, np.int64)
    sec[: sum(counts)] = np.concatenate([np.floor(it["clock"] + it["frames"][:, 0].astype(np.float64)).astype(np.int64) % 86400 for it in items])
    out["sec"] = sec
    assert all((np.diff(it["snap"]) >= 0).all() and it["snap"][-1] < len(it["frames"]) for it in items)
    return out


def build_short(pool, types, rng, shots, cap, held):
    """Clips with `shots` snapshots in all and at most `cap` frames; the longest wait for a batch with more room."""
    items, n, f = [], 0, 0
    while n < shots:
        it = held.pop(0) if held and rng.random() < .5 else pool.get()
        items.append(it)
        n, f = n + len(it["snap"]), f + len(it["frames"])
        while f > cap:
            i = max(range(len(items)), key=lambda j: len(items[j]["frames"]))
            it = items.pop(i)
            n, f = n - len(it["snap"]), f - len(it["frames"])
            held.append(it)
    del held[:-32]
    assert n == shots
    return build_clips(items, types, rng, cap)


def build_long(pool, types, rng, cap, chunk):
    items, f = [], 0
    while True:
        it = pool.get()
        items.append(it)
        f += len(it["frames"])
        if f >= cap:
            return build_clips(items, types, rng, -(-f // chunk) * chunk)


class Builder:
    """Makes batches in a thread of its own, in pinned memory."""

    def __init__(self, make, pin, depth=3):
        self.q, self.error, self.stopped = queue.Queue(depth), None, False
        self.make, self.pin = make, pin
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        try:
            while not self.stopped:
                b = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in self.make().items()}
                if self.pin:
                    b = {k: v.pin_memory() for k, v in b.items()}
                while not self.stopped:
                    try:
                        self.q.put(b, timeout=1)
                        break
                    except queue.Full:
                        pass
        except Exception as e:
            self.error = e

    def get(self, patience=None):
        """The next batch; None where none comes within patience seconds."""
        while True:
            try:
                return self.q.get(timeout=2 if patience is None else patience)
            except queue.Empty:
                if self.error:
                    raise RuntimeError("no more batches") from self.error
                if patience is not None:
                    return None

    def stop(self):
        self.stopped = True

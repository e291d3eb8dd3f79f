"""From the feeder's records to arrays ready for the GPU. `python data.py MODE ... -- FEEDER-ARGS` is one process: it runs one feeder, parses, tokenises,
packs, and writes items (length, pickled dict of arrays) to stdout. Only numpy and tokenizers are needed here.

An item of kind "frames": static, frames, dyn, so/sn (static range of every frame) and sequences of NF frames: ptok, plevel, pvis, ppos, pgrp
[n,P] and the packed questions. An item of kind "clip": static, frames, dyn, snap [S], clock, and the packed questions of
every snapshot. Packed questions are tok, lab, pos, doc, grp, wt [n,Q] and dtype [n,DOCS]: lab is the next token where it belongs to an
answer, else -100; doc numbers the questions, -1 is padding; dtype is the question type's number in `types`, -1 for none."""

import argparse
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np

import labels

MAGIC = 0x41464731
P1, NF = 128, 4  # prefix rows and frames of a stage-1 sequence
DOCS = 64
SPANS = 8        # stretches of evidence of a question, at most
CLOCK = re.compile(r"\d\d:\d\d")
LONGEST = 120    # tokens of a question with its answer: less than a block of the attention mask
SPECIAL = ("<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|segment|>", "<|detail|>", "<|newest|>")


def read_exact(f, n):
    b = f.read(n)
    if len(b) != n:
        raise EOFError("feeder ended")
    return b


def records(f):
    while True:
        h = np.frombuffer(read_exact(f, 32), np.uint32)
        if h[0] != MAGIC:
            raise ValueError(f"bad magic {h[0]:x}")
        kind, nf, ns, nd, nj, seed = (int(x) for x in h[1:7])
        static = np.frombuffer(read_exact(f, 64 * ns), np.float32).reshape(ns, 16)
        frames = np.frombuffer(read_exact(f, 96 * nf), np.float32).reshape(nf, 24)
        dyn = np.frombuffer(read_exact(f, 64 * nd), np.float32).reshape(nd, 16)
        yield kind, seed, static, frames, dyn, json.loads(read_exact(f, nj))


class Packer:
    def __init__(self, tokenizer, rng):
        from tokenizers import Tokenizer

        self.tok = Tokenizer.from_file(tokenizer)
        self.rng = rng
        ids = [self.tok.token_to_id(s) for s in SPECIAL]
        self.bos, self.eos, self.pad, self.user, self.assistant, self.segment, self.detail, self.newest = ids
        self.pairs = [self.tok.token_to_id(f"{i:02d}") for i in range(100)]
        self.dropped = 0

    def ids(self, texts):
        return [e.ids for e in self.tok.encode_batch(texts, add_special_tokens=False)]

    def hms(self, s):
        s = int(s) % 86400
        return [self.pairs[s // 3600], self.pairs[s // 60 % 60], self.pairs[s % 60]]

    def empty(self, n, q):
        return {"tok": np.full((n, q), self.pad, np.int16), "lab": np.full((n, q), -100, np.int16), "pos": np.zeros((n, q), np.int16),
                "doc": np.full((n, q), -1, np.int16), "grp": np.zeros((n, q), np.int16), "wt": np.zeros((n, q), np.float32),
                "dtype": np.full((n, DOCS), -1, np.int16)}

    def pack(self, out, row, docs):
        """docs: (question ids, answer ids, type number, group, position of the first token), laid one after the other."""
        q, at = out["tok"].shape[1], 0
        for k, (qi, ai, typ, grp, p0) in enumerate(docs):
            t = [self.user, *qi, self.assistant, *ai, self.eos]
            n, head = len(t), len(qi) + 1
            if n > LONGEST or at + n > q or k >= DOCS:
                self.dropped += 1
                continue
            s = slice(at, at + n)
            out["tok"][row, s] = t
            out["lab"][row, at + head:at + n - 1] = t[head + 1:]
            out["pos"][row, s] = np.arange(p0, p0 + n)
            out["doc"][row, s] = k
            out["grp"][row, s] = grp
            out["wt"][row, s] = (len(ai) + 1) ** -0.5
            out["dtype"][row, k] = typ
            if "qat" in out:
                out["qat"][row, k] = at + 1, len(qi)
            at += n

    # -- stage 1

    def frames(self, static, frames, dyn, captions, q):
        """Sequences of NF pictures: half of them four prompts of their own, half one memory of four, asked by time."""
        rng, n = self.rng, len(frames) // NF
        order = rng.permutation(len(frames))[: n * NF]
        cap = self.ids(captions)
        out = self.empty(n, q)
        pre = {"ptok": np.full((n, P1), self.pad, np.int16), "plevel": np.zeros((n, P1), np.int8), "pvis": np.zeros((n, P1), np.int16),
               "ppos": np.zeros((n, P1), np.int16), "pgrp": np.full((n, P1), -2, np.int16)}
        for i in range(n):
            pick = order[i * NF:(i + 1) * NF]
            fine = int(rng.integers(0, 4))  # at most three fit
            single = rng.random() < 0.5
            base, span = int(rng.integers(0, 86400)), int(rng.choice([20, 120, 900]))
            times = base + rng.permutation(span)[:NF]
            roles = ["d"] * fine + ["s"] * (NF - fine)
            if single:
                roles = ["n" if r == "d" and rng.random() < 0.4 else r for r in roles]
            elif fine and rng.random() < 0.7:
                roles[fine - 1], times[fine - 1] = "n", times.max() + 1
            rank = {"d": 0, "s": 1, "n": 2}
            seq = sorted(range(NF), key=lambda j: (rank[roles[j]], times[j]))
            at, pos, docs = 0, 0, []
            for g, j in enumerate(seq):
                grp = g if single else 0
                if single or g == 0:
                    head, pos = [self.bos], 0
                else:
                    head = []
                head = head + [{"d": self.detail, "s": self.segment, "n": self.newest}[roles[j]], *self.hms(times[j])]
                rows, first, level = (8, 32, 2) if roles[j] == "s" else (32, 0, 1)
                k = len(head) + rows
                pre["ptok"][i, at:at + len(head)] = head
                pre["plevel"][i, at + len(head):at + k] = level
                pre["pvis"][i, at + len(head):at + k] = j * 40 + first + np.arange(rows)
                pre["ppos"][i, at:at + k] = np.arange(pos, pos + k)
                pre["pgrp"][i, at:at + k] = grp
                at, pos = at + k, pos + k
                docs.append([j, grp, pos])
            if not single:
                for d in docs:
                    d[2] = pos
            qs = self.ids([f"Describe {t // 3600 % 24:02d}:{t // 60 % 60:02d}:{t % 60:02d}." for t in times.tolist()])
            self.pack(out, i, [(qs[j], cap[pick[j]], 0 if roles[j] == "s" else 1, g, p) for j, g, p in docs])
        frames = frames[order]
        look = np.stack([labels.of(captions[i]) for i in order])
        return {"kind": "frames", "look": look, "static": static, "frames": frames, "dyn": dyn, "so": frames[:, 16].astype(np.int32),
                "sn": frames[:, 17].astype(np.int32), "types": ["caption_synopsis", "caption_fine"], **pre, **out}

    # -- stages 2 and 3

    def clip(self, seed, static, frames, dyn, snaps, q, evidence=False):
        """With evidence: ev [S,DOCS,SPANS,2], the frames that show what a question rests on; evn [S,DOCS], how many stretches (negative where any
        one will do); qat [S,DOCS,2], where the question's tokens are; seek [S,DOCS], whether it can be found by what it shows alone."""
        out = self.empty(len(snaps), q)
        types = sorted({x["type"] for s in snaps for x in s["qa"]})
        num = {t: i for i, t in enumerate(types)}
        if evidence:
            n = len(snaps)
            out |= {"ev": np.zeros((n, DOCS, SPANS, 2), np.int32), "evn": np.zeros((n, DOCS), np.int16), "qat": np.zeros((n, DOCS, 2), np.int16),
                    "seek": np.zeros((n, DOCS), bool)}
        for i, s in enumerate(snaps):
            qa = [s["qa"][j] for j in self.rng.permutation(len(s["qa"]))]
            if qa:
                qi, ai = self.ids([x["q"] for x in qa]), self.ids([x["a"] for x in qa])
                self.pack(out, i, [(a, b, num[x["type"]], 0, 0) for a, b, x in zip(qi, ai, qa)])
            if evidence:
                self.evidence(out, i, qa[:DOCS], frames[:s["frame"] + 1, 0])
        return {"kind": "clip", "seed": seed, "static": static, "frames": frames, "dyn": dyn, "types": types,
                "snap": np.array([s["frame"] for s in snaps], np.int32), "clock": float(snaps[0]["clock"]), **out}

    def evidence(self, out, row, qa, times):
        for k, x in enumerate(qa):
            spans = x.get("evidence", [])
            if len(spans) > SPANS:
                spans = [spans[j] for j in np.sort(self.rng.permutation(len(spans))[:SPANS])]
            if spans and out["dtype"][row, k] >= 0:
                e = np.array(spans, np.float32)
                lo = np.minimum(np.searchsorted(times, e[:, 0]), len(times) - 1)
                hi = np.maximum(np.searchsorted(times, e[:, 1], "right"), lo + 1)
                out["ev"][row, k, :len(e)] = np.stack((lo, hi), 1)
                kind = x["type"].split("@")[0]
                out["evn"][row, k] = -len(e) if kind == "event_occurrence" else len(e)
                out["seek"][row, k] = kind != "past_state" and not CLOCK.search(x["q"])

    def aged(self, snaps, frames):
        """Question types say whether all that the answer rests on is older than ten minutes."""
        for s in snaps:
            now = float(frames[s["frame"], 0])
            for x in s["qa"]:
                if x.get("evidence") and now - max(e[1] for e in x["evidence"]) > 600:
                    x["type"] += "@old"
        return snaps

    def short(self, seed, static, frames, dyn, snaps, q, tmax, per):
        """Cuts a clip to `per` of its snapshots and at most tmax frames, at whole strides, every snapshot's frame kept."""
        fit = [s for s in snaps if s["frame"] + 1 <= 3 * tmax and s["qa"]]
        fit = [fit[i] for i in self.rng.permutation(len(fit))]
        for i in range(0, len(fit) - per + 1, per):
            use = sorted(fit[i:i + per], key=lambda s: s["frame"])
            last = use[-1]["frame"]
            stride = -(-(last + 1) // (tmax - per + 1))
            keep = sorted({*range(last, -1, -stride), *(s["frame"] for s in use)})
            where = {f: k for k, f in enumerate(keep)}
            yield self.clip(seed, static, frames[keep], dyn, [{**s, "frame": where[s["frame"]]} for s in use], q)


def worker(a):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    pk = Packer(a.tokenizer, np.random.default_rng(a.seed * 7 + 1))
    p = subprocess.Popen([a.feeder, *a.args], stdout=subprocess.PIPE, bufsize=1 << 20, env={**os.environ, "GOMAXPROCS": "2"})
    out = sys.stdout.buffer
    try:
        for kind, seed, static, frames, dyn, text in records(p.stdout):
            if a.mode == "frames":
                items = [pk.frames(static, frames, dyn, text["captions"], a.q)]
            elif a.mode == "short":
                items = pk.short(seed, static, frames, dyn, text["snapshots"], a.q, a.tmax, a.per)
            else:
                snaps = pk.aged(text["snapshots"], frames) if a.aged else text["snapshots"]
                items = [pk.clip(seed, static, frames, dyn, snaps, a.q, a.mode == "mixed")]
            for it in items:
                b = pickle.dumps(it, protocol=5)
                out.write(len(b).to_bytes(8, "little"))
                out.write(b)
        out.flush()
    except (BrokenPipeError, EOFError):
        pass
    finally:
        p.kill()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("mode", choices=("frames", "short", "long", "mixed"))
    ap.add_argument("--feeder", required=True)
    ap.add_argument("--tokenizer", required=True)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--q", type=int, required=True)
    ap.add_argument("--tmax", type=int, default=48)
    ap.add_argument("--per", type=int, default=2)
    ap.add_argument("--aged", action="store_true")
    cut = sys.argv.index("--")  # what follows is the feeder's
    ns = ap.parse_args(sys.argv[1:cut])
    ns.args = sys.argv[cut + 1:]
    worker(ns)

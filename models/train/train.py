"""Trains the default model by wall time: perception, short clips end to end, then the exact memory of long streams. See README.md.

  train.py --feeder ./feeder --tokenizer tokenizer.json --out run --seconds 1140
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import batches
import export
import kernels
import labels
import memory as mem
import model as M
from data import DOCS, NF, P1

DIM8 = 8  # rows of a synopsis

FULL = dict(b1=128, q1=256, b2=64, f2=1280, tmax=48, p2=640, q2=512, b3=64, p3=1152, q3=1024, chunk=2048, cap=24576, qa=40, shots=10, longest=0, clips=28)
TINY = dict(b1=6, q1=256, b2=4, f2=60, tmax=16, p2=640, q2=256, b3=2, p3=1152, q3=512, chunk=64, cap=150, qa=12, shots=4, longest=45, clips=4)


class Heads(nn.Module):
    """Linear probes of both levels of a frame's rows, for labels.of: trained along and thrown away."""

    def __init__(self, d):
        super().__init__()
        self.who, self.state = nn.ModuleList(nn.Linear(d, labels.ACTORS) for _ in range(2)), nn.ModuleList(nn.Linear(k * d, labels.STATES) for k in (8, 4))
        for l in self.who:
            nn.init.zeros_(l.weight)
            nn.init.constant_(l.bias, -5.0)

    def forward(self, fine, synopsis, y):
        """Sum of the losses a frame; and hits: actors found, of, claimed (fine, then synopsis)."""
        n = y.shape[0]
        who, state = y[:, :8 * labels.ACTORS].view(n, 8, labels.ACTORS), y[:, 8 * labels.ACTORS:]
        loss, hits = 0.0, []
        for i, (rows, gh, gw) in enumerate(((fine, 4, 8), (synopsis, 2, 4))):
            x = rows.view(n, gh, gw, -1).sum(1)
            want = who.view(n, gw, 8 // gw, labels.ACTORS).amax(2)
            got = self.who[i](x).float()
            loss = loss + F.binary_cross_entropy_with_logits(got, want, reduction="sum") / n
            loss = loss + F.binary_cross_entropy_with_logits(self.state[i](x.flatten(1)).float(), state, reduction="sum") / n
            hits += [((got > 0) & (want > 0)).sum(), want.sum(), (got > 0).sum()]
        return loss, torch.stack([h.float() for h in hits]).detach()


class Trainer:
    def __init__(self, a):
        self.a, self.dev = a, torch.device(a.device)
        self.cuda = self.dev.type == "cuda"
        self.size = dict(TINY if a.tiny else FULL)
        special, pairs, vocab = M.load_tokens(a.tokenizer)
        self.sp = mem.Special(special, pairs, self.dev)
        cfg = M.TINY if a.tiny else M.Config()
        cfg.vocab = -(-vocab // 64) * 64
        torch.manual_seed(a.seed)
        self.model = M.Model(cfg).to(self.dev)
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.heads = Heads(cfg.width).to(self.dev)
        groups = []
        for scale, part in ((1.0, self.model.language_model), (a.vision_lr, self.model.vision_tower), (a.vision_lr, self.model.multi_modal_projector), (1.0, self.heads)):
            for decay, pick in ((0.05, lambda p: p.ndim >= 2), (0.0, lambda p: p.ndim < 2)):
                groups.append({"params": [p for p in part.parameters() if pick(p)], "weight_decay": decay, "scale": scale})
        self.opt = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95), eps=1e-8, fused=self.cuda)
        self.types, self.rng = batches.Types(), np.random.default_rng(a.seed + 5)
        self.step = self.stage = self.warm = 0
        self.t0 = a.t0 or time.time()
        self.attend, self.flex = {}, self.cuda and not a.dense
        self.curve, self.skipped = [], torch.zeros((), device=self.dev)
        self.vision_frozen = False
        self.tally = torch.zeros(64, 2, device=self.dev)
        self.loss_sum = torch.zeros(2, device=self.dev)
        self.hits = torch.zeros(6, device=self.dev)
        self.log = open(os.path.join(a.out, "train.log"), "a", buffering=1)
        self.compile()

    # -- plumbing

    def say(self, *words):
        line = f"[{time.time() - self.t0:7.1f}s] " + " ".join(str(w) for w in words)
        print(line, flush=True)
        self.log.write(line + "\n")

    def compile(self):
        m = self.model
        self.head, self.degrade = m.head, kernels.degrade
        if not (self.cuda and self.a.compile):
            return
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.accumulated_recompile_limit = 512
        for l in [*m.vision_tower.vision_model.encoder.layers, *m.language_model.model.layers]:
            l.compile(dynamic=False)  # one layer is compiled and serves for all
        self.head = torch.compile(m.head, dynamic=False)
        self.degrade = torch.compile(kernels.degrade, dynamic=False)

    def autocast(self):
        return torch.autocast(self.dev.type, torch.bfloat16, enabled=self.cuda)

    def elapsed(self):
        return time.time() - self.t0

    def rate(self):
        f = min(1.0, self.elapsed() / self.a.seconds)
        lr = self.a.lr * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * f)))
        return lr * min(1.0, (self.warm + 1) / self.a.warmup)

    def update(self, loss):
        loss.backward()
        # the eye and the tongue are clipped apart: the heads' gradients are the larger and would silence the decoder's
        norms = []
        for part in ((self.model.language_model,), (self.model.vision_tower, self.model.multi_modal_projector), (self.heads,)):
            params = [p for m in part for p in m.parameters() if p.grad is not None]
            if params:
                norms.append(torch.nn.utils.clip_grad_norm_(params, 1.0))
        norm = torch.stack(norms).sum()
        lr = self.rate()
        for g in self.opt.param_groups:
            g["lr"] = lr * g["scale"]
        bad = ~torch.isfinite(norm)
        if self.cuda:
            self.opt.grad_scale, self.opt.found_inf = None, bad.float()
            self.opt.step()
        elif not bad:
            self.opt.step()
        self.skipped += bad
        self.opt.zero_grad(set_to_none=True)
        self.step += 1
        self.warm += 1

    # -- the pieces of a step

    def draw(self, t, lo=0, hi=None):
        with torch.no_grad():
            s = slice(lo, hi)
            x = kernels.render(t["prims"], t["frames"][s], t["meta"][s], t["aug"][s])
            dy, dx = (int(v) for v in self.rng.integers(0, 4, 2))
            return self.degrade(x, t["blur"][s], t["step"][s], *kernels.roll(dy, dx, self.dev)).to(self.dtype)

    def encode(self, pixels):
        with self.autocast():
            return self.model.encode(pixels).to(self.dtype)

    def mask(self, b, p, q, pgrp, qgrp, doc):
        key = (b, p, q)
        if key not in self.attend:
            self.attend[key] = M.Attend(b, p, q, self.dev, self.flex)
        return self.attend[key].set(pgrp, qgrp, doc)

    def language(self, rows, ppos, pgrp, t, qpos):
        """Loss of packed questions t behind prompts rows [B,P,width]; and which tokens were right [B,Q]."""
        b, p, _ = rows.shape
        q = t["tok"].shape[1]
        w = self.model.language_model.model.embed_tokens.weight
        lab = t["lab"].long()
        with self.autocast():
            x = torch.cat((rows, F.embedding(t["tok"].long(), w).to(rows.dtype)), 1)
            pos = torch.cat((ppos.expand(b, p), qpos), 1)
            try:
                h = self.model.decode(x, pos, self.mask(b, p, q, pgrp, t["grp"], t["doc"]))
            except Exception as e:
                if not self.flex:
                    raise
                self.say("flex attention failed, using dense masks:", repr(e)[:2000])
                self.flex, self.attend = False, {}
                torch._dynamo.reset()
                h = self.model.decode(x, pos, self.mask(b, p, q, pgrp, t["grp"], t["doc"]))
            loss, weight, right = self.head(h[:, p:].reshape(b * q, -1), lab.reshape(-1), t["wt"].reshape(-1) * (lab.reshape(-1) >= 0))
        return loss / weight.clamp_min(1e-6), right.view(b, q) | (lab < 0)

    def count(self, tally, right, t):
        """Adds to tally [types,2]: questions, and those answered exactly (every token the most likely: greedy decoding gives just that)."""
        doc, typ = t["doc"].long(), t["dtype"].long()
        ok = torch.ones(doc.shape[0], DOCS + 1, dtype=torch.int32, device=doc.device)
        ok.scatter_reduce_(1, torch.where(doc < 0, DOCS, doc), right.int(), "amin")
        live = typ >= 0
        tally.index_add_(0, torch.where(live, typ, 63).reshape(-1), torch.stack((live, live & (ok[:, :DOCS] > 0)), -1).reshape(-1, 2).float())

    def note(self, loss, right, t):
        with torch.no_grad():
            self.loss_sum += torch.stack((loss.detach().float(), torch.ones((), device=self.dev)))
            self.count(self.tally, right, t)

    def to_device(self, b):
        return {k: v.to(self.dev, non_blocking=True) for k, v in b.items()}

    # -- stage 1

    def frames_loss(self, t):
        fine = self.encode(self.draw(t))
        d = fine.shape[-1]
        with self.autocast():
            self.looking, hits = self.heads(fine, self.model.synopsis(fine), t["look"].float())
        self.hits += hits
        rows = mem.assemble(t["ptok"].long(), t["plevel"], t["vidx"], fine.reshape(-1, d), self.model.synopsis(fine).reshape(-1, d), self.words())
        return self.language(rows, t["ppos"].long(), t["pgrp"], t, t["pos"].long())

    def words(self):
        return self.model.language_model.model.embed_tokens.weight

    # -- stages 2 and 3: a memory

    def choose(self, t, stage, layout=None):
        """Draws the memory's settings for every clip and snapshot; with a layout, the standard ones of evaluation."""
        c, s, dev, r = t["clips"].shape[0], t["snap"].shape[0], self.dev, self.rng
        top = 64 if stage == 3 else 24
        if layout is not None:
            k, d = np.full(c, top), np.full(s, 8)
            mode, recent = np.full(s, layout), np.full(s, 8)
        elif stage == 3:
            k = np.where(r.random(c) < .8, 64, r.integers(8, 65, c))
            d = np.where(r.random(s) < .85, 8, r.integers(0, 9, s))
            mode = r.choice([mem.FLASH, mem.RECENT, mem.NEWEST, mem.NONE], s, p=[.85, .055, .055, .04])
            recent = r.integers(2, 17, s)
        else:
            k, d = r.choice([8, 12, 16, 24], c, p=[.1, .2, .3, .4]), r.integers(0, 9, s)
            mode = r.choice([mem.FLASH, mem.RECENT, mem.NEWEST, mem.NONE], s, p=[.88, .07, .03, .02])
            recent = r.integers(2, 17, s)
        t["clips"] = t["clips"].clone()
        t["clips"][:, 2] = torch.from_numpy(np.ascontiguousarray(k)).to(dev)
        return (torch.from_numpy(np.ascontiguousarray(v)).to(dev) for v in (mode, d, recent))

    def plan(self, t, syn, stage, layout=None):
        mode, details, recent = self.choose(t, stage, layout)
        n, info, cent = kernels.flash(syn, t["clips"].contiguous(), t["snap"])
        base = t["clips"][t["clip_of"], 0]
        return mem.Plan(n, info, base, t["snap"], mode, details, recent, t["sec"]), n, info, cent, base

    def prompt_loss(self, plan, sel, p, q, fine, syn, t):
        """One step of questions at the snapshots sel, prompts padded to p, the first q tokens of the questions."""
        ptok, level, vidx, group = plan.rows(sel, p, self.sp)
        rows = mem.assemble(ptok, level, vidx, fine, syn, self.words())
        s = {k: t[k].index_select(0, sel)[:, :q] for k in ("tok", "lab", "pos", "doc", "grp", "wt")}
        typ = t["dtype"].index_select(0, sel)
        if q < t["tok"].shape[1]:  # a question cut off is not counted
            cut = t["doc"].index_select(0, sel)[:, q].long()
            typ = torch.where(torch.arange(DOCS, device=self.dev) >= torch.where(cut < 0, DOCS, cut)[:, None], -1, typ)
        s["dtype"] = typ
        loss, right = self.language(rows, torch.arange(p, device=self.dev)[None], group, s, plan.plen[sel, None] + s["pos"].long())
        return loss, right, s

    def short_loss(self, t, layout=None):
        z = self.size
        fine = self.encode(self.draw(t))
        f, _, d = fine.shape
        syn = self.model.synopsis(fine).reshape(f, DIM8 * d)
        plan, n, info, _, base = self.plan(t, syn.detach().float().contiguous(), 2, layout)
        # the same centroids again, with gradients
        s, tm = t["snap"].shape[0], z["tmax"]
        at = torch.arange(tm, device=self.dev)
        first, count = info[:, :, 0, None], info[:, :, 1, None]
        a = ((at >= first) & (at < first + count)).to(syn.dtype) / count.clamp_min(1)
        seen = syn.index_select(0, (base.long()[:, None] + at).clamp(max=f - 1).reshape(-1)).view(s, tm, -1)
        cent = torch.bmm(a.to(syn.dtype), seen).reshape(-1, d)
        return self.prompt_loss(plan, torch.arange(s, device=self.dev), z["p2"], z["q2"], fine.reshape(-1, d), cent, t)

    def remember(self, t, layout=None):
        """Encodes all frames of a batch of clips and runs the memory. Returns plan, fine rows, synopsis rows."""
        f, c = t["frames"].shape[0], self.size["chunk"]
        d = self.model.c.width
        fine = torch.empty(f, 32, d, dtype=self.dtype, device=self.dev)
        with torch.no_grad():
            for lo in range(0, f, c):
                fine[lo:lo + c] = self.encode(self.draw(t, lo, lo + c))
            syn = self.model.synopsis(fine.float()).reshape(f, DIM8 * d).contiguous()
            return self.recall(t, fine, syn, layout)

    def recall(self, t, fine, syn, layout=None):
        with torch.no_grad():
            plan, _, _, cent, _ = self.plan(t, syn, 3, layout)
            d = self.model.c.width
            return plan, fine.view(-1, d), cent.to(self.dtype).view(-1, d), syn

    def minibatches(self, plan):
        """Snapshots in random order, in full batches of like length: (indices, p, q)."""
        z, plen = self.size, plan.plen.cpu().numpy()
        out = []
        for lo, hi, p, q in ((0, z["p2"], z["p2"], z["q2"]), (z["p2"], z["p3"], z["p3"], z["q3"])):
            idx = self.rng.permutation(np.nonzero((plen > lo) & (plen <= hi))[0])
            b = z["b3"]
            out += [(torch.from_numpy(idx[i:i + b]).to(self.dev), p, q) for i in range(0, len(idx) - b + 1, b)]
        return [out[i] for i in self.rng.permutation(len(out))]

    # -- watching progress

    def table(self, tally):
        v = tally.cpu().numpy()
        return {n: [int(v[i, 0]), round(float(v[i, 1] / max(1, v[i, 0])), 4)] for i, n in enumerate(self.types.names) if v[i, 0] > 0}

    @staticmethod
    def words_of(table):
        total = sum(n for n, _ in table.values())
        mean = sum(n * v for n, v in table.values()) / max(1, total)
        return f"mean {mean:.3f} of {total}; " + " ".join(f"{k} {v:.3f}" for k, (_, v) in sorted(table.items()))

    def progress(self, extra=""):
        v = self.loss_sum.cpu().numpy()
        table = self.table(self.tally)
        h = [float(x) for x in self.hits.cpu()]
        if h[1]:
            extra += f" look: found {h[0] / h[1]:.3f} right {h[0] / max(1, h[2]):.3f}; synopsis {h[3] / h[4]:.3f} {h[3] / max(1, h[5]):.3f}"
            self.hits.zero_()
        self.say(f"stage {self.stage} step {self.step} loss {v[0] / max(1, v[1]):.4f} lr {self.rate():.2e} skipped {int(self.skipped)} {extra} | train {self.words_of(table)}")
        self.curve.append({"t": round(self.elapsed(), 1), "stage": self.stage, "step": self.step, "set": "train", "loss": float(v[0] / max(1, v[1])), "types": table})
        self.tally.zero_()
        self.loss_sum.zero_()

    def evaluated(self, name, tally):
        table = self.table(tally)
        self.say(f"  held out, {name}: {self.words_of(table)}")
        self.curve.append({"t": round(self.elapsed(), 1), "stage": self.stage, "step": self.step, "set": name, "types": table})
        self.save_curve()

    def save_curve(self):
        tmp = os.path.join(self.a.out, "curves.json.tmp")
        with open(tmp, "w") as f:
            json.dump({"seconds": self.a.seconds, "points": self.curve}, f)
        os.replace(tmp, tmp[:-4])

    def checkpoint(self):
        t = time.time()
        tmp = os.path.join(self.a.out, "ckpt.tmp")
        torch.save({"model": self.model.state_dict(), "opt": self.opt.state_dict(), "t0": self.t0, "step": self.step, "curve": self.curve}, tmp)
        os.replace(tmp, os.path.join(self.a.out, "ckpt.pt"))
        export.save(self.model, os.path.join(self.a.out, "export"))
        self.save_curve()
        self.say(f"  checkpoint in {time.time() - t:.1f} s")

    def resume(self):
        path = os.path.join(self.a.out, "ckpt.pt")
        if os.path.exists(path):
            c = torch.load(path, map_location=self.dev, weights_only=False)
            self.model.load_state_dict(c["model"])
            self.opt.load_state_dict(c["opt"])
            self.t0, self.step, self.curve = c["t0"], c["step"], c["curve"]
            self.say("resumed")


class Ring:
    """Takes fresh batches while there are any, and an old one again where the feeders are behind."""

    def __init__(self, builder, trainer, keep=8, patience=0.1):
        self.builder, self.trainer, self.keep, self.patience = builder, trainer, keep, patience
        self.old, self.fresh, self.again, self.wait = [], 0, 0, 0.0

    def get(self):
        t = time.time()
        b = self.builder.get(self.patience if self.old else None)  # launches run ahead of the GPU: a short wait is free
        self.wait += time.time() - t
        if b is None:
            self.again += 1
            return dict(self.old[int(self.trainer.rng.integers(len(self.old)))]), True
        self.fresh += 1
        d = self.trainer.to_device(b)
        self.old = [*self.old[-self.keep + 1:], d]
        return dict(d), False

    def text(self):
        s = f"fresh {self.fresh} again {self.again} wait {self.wait:.1f}s"
        self.fresh = self.again = 0
        self.wait = 0.0
        return s


def arguments():
    ap = argparse.ArgumentParser()
    ap.add_argument("--feeder", required=True)
    ap.add_argument("--tokenizer", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--seconds", type=float, default=1140)
    ap.add_argument("--fractions", default="0.17,0.21", help="of the time for stages 1 and 2")
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--workers", default="8,6,6")
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--vision-lr", type=float, default=0.5, help="of --lr, for the vision tower and the projector")
    ap.add_argument("--warmup", type=int, default=300)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--every", type=float, default=15, help="seconds between progress lines")
    ap.add_argument("--tiny", action="store_true")
    ap.add_argument("--dense", action="store_true", help="dense masks instead of flex attention")
    ap.add_argument("--no-compile", dest="compile", action="store_false")
    ap.add_argument("--steps", help="most steps of each stage, for tests")
    ap.add_argument("--t0", type=float, default=0, help="when the clock started, seconds since 1970")
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--check", action="store_true", help="check the kernels on this device first")
    return ap


def main():
    a = arguments().parse_args()
    os.makedirs(a.out, exist_ok=True)
    if a.device == "cuda":
        torch.set_float32_matmul_precision("high")
    n1, n2, n3 = (int(x) for x in a.workers.split(","))
    z = TINY if a.tiny else FULL
    types = None
    worker_log = open(os.path.join(a.out, "workers.log"), "ab")

    def pool(mode, n, q, args, first=0, extra=(), depth=48):
        return batches.Pool(mode, n, q, a.feeder, a.tokenizer, args, first, worker_log, extra, depth)

    short_args = ["-mode", "clips", "-longest", str(1.5 * z["tmax"]), "-shots", "4", "-qa", str(max(8, z["q2"] // 20))]
    long_args = ["-mode", "clips", "-shots", str(z["shots"]), "-qa", str(z["qa"]), "-longest", str(z["longest"])]
    short_extra = ("--tmax", str(z["tmax"]), "--per", "2")
    frames_pool = pool("frames", n1, z["q1"], ["-mode", "frames"])  # they fill their queues while the model compiles
    tr = Trainer(a)
    if a.resume:
        tr.resume()
    types = tr.types
    tr.say(f"{sum(p.numel() for p in tr.model.parameters()) / 1e6:.1f} M parameters, {a.device}, torch {torch.__version__}, flex {tr.flex}, sizes {z}")
    if a.check:
        import check

        check.run(tr)
        check.speed(tr, frames_pool)
    rng = np.random.default_rng
    f1, f2 = (float(x) for x in a.fractions.split(","))
    limits = [int(x) for x in a.steps.split(",")] if a.steps else [1 << 60] * 3
    ends = (f1 * a.seconds, (f1 + f2) * a.seconds, a.seconds - 8)
    make1 = batches.Builder(lambda r=rng(11): batches.build_frames(frames_pool, types, r, z["b1"]), tr.cuda)
    ring1 = Ring(make1, tr)
    state = {"next": time.time() + 5, "mark": time.time(), "frames": 0, "steps": 0, "saved": time.time()}

    def beat(ring, evaluate=None):
        """Once in a while: a progress line, an evaluation, a checkpoint."""
        now = time.time()
        if now < state["next"]:
            return
        if tr.cuda:
            torch.cuda.synchronize()
        dt = time.time() - state["mark"]
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if tr.cuda else ""
        tr.progress(f"{state['steps'] / dt:.2f} steps/s {state['frames'] / dt:.0f} frames/s {memory} {ring.text()}")
        if evaluate:
            evaluate()
        if now - state["saved"] > 100:
            tr.checkpoint()
            state["saved"] = now
        state.update(next=time.time() + a.every, mark=time.time(), frames=0, steps=0)

    def going(stage):
        return tr.elapsed() < ends[stage - 1] and tr.step < sum(limits[:stage])

    def did(frames):
        state["frames"] += frames
        state["steps"] += 1

    def frames_step():
        t, _ = ring1.get()
        loss, right = tr.frames_loss(t)
        tr.note(loss, right, t)
        tr.update(loss + 0.1 * tr.looking)
        did(z["b1"] * NF)

    # 1: perception
    tr.stage = 1
    pool2 = eval2 = pool3 = eval3 = None
    while going(1):
        frames_step()
        if pool2 is None and tr.elapsed() > ends[0] - 20:
            pool2 = pool("short", n2, z["q2"], short_args, extra=short_extra)
            eval2 = pool("short", 1, z["q2"], [*short_args, "-monitor"], first=100_000, extra=short_extra)
        beat(ring1)

    # 2: short clips, end to end
    if pool2 is None:
        pool2 = pool("short", n2, z["q2"], short_args, extra=short_extra)
        eval2 = pool("short", 1, z["q2"], [*short_args, "-monitor"], first=100_000, extra=short_extra)
    tr.stage = 2
    held, held_eval = [], []
    r2 = rng(12)
    make2 = batches.Builder(lambda: batches.build_short(pool2, types, r2, z["b2"], z["f2"], held), tr.cuda)
    ring2 = Ring(make2, tr)
    tests2 = []

    def evaluate2():
        while len(tests2) < 3:
            b = batches.build_short(eval2, types, rng(13), z["b2"], z["f2"], held_eval)
            tests2.append({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in b.items()})
        eval2.stop()
        tally = torch.zeros_like(tr.tally)
        for b in tests2:
            _, right, s = tr.short_loss(tr.to_device(b), layout=mem.FLASH)
            tr.count(tally, right.detach(), s)
        tr.evaluated("short clips", tally)

    while going(2):
        if tr.step % 6 == 5:
            frames_step()
        else:
            t, _ = ring2.get()
            loss, right, s = tr.short_loss(t)
            tr.note(loss, right, s)
            tr.update(loss)
            did(z["f2"])
        if pool3 is None and tr.elapsed() > ends[1] - 25:
            pool3 = pool("long", n3, z["q3"], long_args, depth=64)
            eval3 = pool("long", 1, z["q3"], [*long_args, "-monitor"], first=100_000)
        beat(ring2, evaluate2)
    evaluate2()
    for p in (pool2, frames_pool):
        p.stop()
    for m in (make1, make2):
        m.stop()

    # 3: the exact memory; the encoder no longer changes
    if pool3 is None:
        pool3 = pool("long", n3, z["q3"], long_args, depth=64)
        eval3 = pool("long", 1, z["q3"], [*long_args, "-monitor"], first=100_000)
    tr.stage = 3
    for p in [*tr.model.vision_tower.parameters(), *tr.model.multi_modal_projector.parameters()]:
        p.requires_grad_(False)
    r3 = rng(14)
    make3 = batches.Builder(lambda: batches.build_long(pool3, types, r3, z["cap"], z["chunk"]), tr.cuda, depth=2)
    tests3 = []

    def evaluate3(layouts=(("memory", mem.FLASH),)):
        if not tests3:
            items = [eval3.get() for _ in range(z["clips"])]
            eval3.stop()
            f = sum(len(i["frames"]) for i in items)
            b = batches.build_clips(items, types, rng(15), -(-f // z["chunk"]) * z["chunk"])
            t = tr.to_device({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in b.items()})
            tests3.append((t, tr.remember(t, mem.FLASH)))
        for name, layout in layouts:
            t, (plan, fine, cent, syn) = tests3[0]
            if layout != mem.FLASH:
                plan, _, cent, _ = tr.recall(t, fine.view(-1, 32, fine.shape[-1]), syn, layout)
            tally = torch.zeros_like(tr.tally)
            state_rng, tr.rng = tr.rng, rng(16)
            for sel, p, q in tr.minibatches(plan):
                _, right, s = tr.prompt_loss(plan, sel, p, q, fine, cent, t)
                tr.count(tally, right.detach(), s)
            tr.rng = state_rng
            tr.evaluated(name, tally)

    ring3 = Ring(make3, tr, keep=1, patience=0.5)
    last = None
    while going(3):
        t, again = ring3.get()
        if again and last is not None:  # the same pictures, another memory
            plan, fine, cent, syn = tr.recall(t, last[0], last[1])
        else:
            last = None
            plan, fine, cent, syn = tr.remember(t)
            last = (fine.view(-1, 32, fine.shape[-1]), syn)
            state["frames"] += t["frames"].shape[0]
        for sel, p, q in tr.minibatches(plan):
            loss, right, s = tr.prompt_loss(plan, sel, p, q, fine, cent, t)
            tr.note(loss, right, s)
            tr.update(loss)
            did(0)
            if not going(3):
                break
            beat(ring3, evaluate3)
    tr.progress()
    pool3.stop()
    make3.stop()
    evaluate3((("memory", mem.FLASH), ("newest only", mem.NEWEST), ("blind", mem.NONE)))
    tr.checkpoint()
    tr.say("done")
    with open(os.path.join(a.out, "DONE"), "w") as f:
        f.write("ok\n")
    os._exit(0)  # threads and pipes need no farewell


if __name__ == "__main__":
    main()

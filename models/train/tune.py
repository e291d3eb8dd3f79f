"""Fine-tunes a model on every memory at every budget, and trains the learned parts of a memory with it. See README.md.

  tune.py --init ../default --feeder ./feeder --tokenizer tokenizer.json --out run --seconds 660
"""

import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import batches
import export
import golden
import kernels
import layouts
import memory as mem
import model as M
import modules
import train
from data import DOCS

FULL = dict(b=64, q=1024, prompts=(512, 1152, 1792), chunk=2048, cap=24576, qa=40, shots=24, long=.2, long_shots=120, longest=0, most=1024,
            fine=(128, 256, 512, 1024), depth=32, seek=256, seek_clips=96, grad=384, hours=6, tens=12, per_question=4)
TINY = dict(b=2, q=384, prompts=(512, 1152, 1792), chunk=64, cap=150, qa=12, shots=4, long=0.0, long_shots=4, longest=45, most=64,
            fine=(16, 32), depth=4, seek=8, seek_clips=4, grad=8, hours=0, tens=2, per_question=2)
FOCUS = 4  # questions that a selection is for, at most
CLOSED = ("event_occurrence", "sequence_validation", "counting", "attribute", "direction", "which", "current_state", "past_state")

# What is measured on held-out streams: a name, a family, a visual budget, its options, and whether each question has a prompt of its own.
MEASURED = [
    ("flash", "flash", 1024, dict(details=8), False),
    ("recent 8", "recent", 512, dict(n=8), False),
    ("newest", "newest", 32, {}, False),
    ("blind", "nothing", 32, {}, False),
    ("uniform whole 512", "frames", 512, dict(level=0, even=True), False),
    ("uniform 8 rows 512", "frames", 512, dict(level=1, even=True), False),
    ("random 2 rows 512", "frames", 512, dict(level=2, even=False), False),
    ("pyramid 512", "pyramid", 512, dict(caps=(4, 24, 80)), False),
    ("spans 8 rows 512", "spans", 512, dict(level=1, of="small"), False),
    ("spans 2 rows 512", "spans", 512, dict(level=2, of="fine"), False),
    ("star 681", "star", 681, dict(level=1), False),
    ("selected 128", "selected", 128, dict(standard=True), True),
    ("selected 256", "selected", 256, dict(standard=True), True),
    ("selected 512", "selected", 512, dict(standard=True), True),
    ("selected 1024", "selected", 1024, dict(standard=True), True),
    ("propagated 512", "propagated", 512, dict(standard=True), True),
    ("bridge 512", "bridge", 512, dict(standard=True), True),
]


class Streams:
    """A batch of streams, encoded, and what the memories made of them."""


class Tuner(train.Trainer):
    def __init__(self, a):
        super().__init__(a)
        self.size = dict(TINY if a.tiny else FULL)
        if a.init and not a.tiny:
            self.model.load_state_dict(golden.load(a.init).state_dict())
        c = self.model.c
        self.learned = modules.Memory(modules.TINY if a.tiny else modules.Config(width=c.width)).to(self.dev)
        self.scale = torch.nn.Parameter(torch.full((2,), math.log(14.0), device=self.dev))  # of cosines in the losses; not kept
        for p in [*self.model.vision_tower.parameters(), *self.model.multi_modal_projector.parameters()]:
            p.requires_grad_(False)
        memory = os.path.join(a.init or "", "memory.safetensors")
        if a.init and not a.tiny and os.path.exists(memory):
            self.learned.load_state_dict({k.removeprefix("memory."): v.float() for k, v in load_file(memory).items() if k.split(".")[1] != a.fresh}, strict=not a.fresh)
        # The bridge's rows pass no norm before they are shown: at the rate of the others they grew to five hundred times a frame's.
        self.parts = [(n, rate, list(p)) for n, rate, p in (
            ("decoder", 1.0, self.model.language_model.parameters()), ("indicator", a.memory_lr / a.lr, [*self.learned.indicator.parameters(), self.scale]),
            ("stream", a.memory_lr / a.lr, self.learned.stream.parameters()), ("bridge", 0.2 * a.memory_lr / a.lr, self.learned.bridge.parameters()))
            if not a.only or n in a.only.split(",")]
        groups = []
        for _, rate, params in self.parts:
            for decay, pick in ((0.05, lambda p: p.ndim >= 2), (0.0, lambda p: p.ndim < 2)):
                groups.append({"params": [p for p in params if pick(p)], "weight_decay": decay, "scale": rate})
        self.opt = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.95), eps=1e-8, fused=self.cuda)
        self.side = torch.cuda.Stream() if self.cuda else None
        self.mix = layouts.FAMILIES if not a.families else {n: float(v) for n, v in (x.split("=") for x in a.families.split(","))}
        self.names = list(self.mix)
        self.family_tally = torch.zeros(len(self.names), 2, device=self.dev)
        self.extra = torch.zeros(6, device=self.dev)  # losses and hits of the two searches
        self.stage = 4

    def update(self, loss):
        loss.backward()
        with_grad = [[p for p in params if p.grad is not None] for _, _, params in self.parts]
        norms = [torch.nn.utils.clip_grad_norm_(params, 1.0) for params in with_grad if params] or [torch.zeros((), device=self.dev)]
        lr = self.rate()
        for g in self.opt.param_groups:
            g["lr"] = lr * g["scale"]
        bad = ~torch.isfinite(torch.stack(norms).sum())
        if self.cuda:
            self.opt.grad_scale, self.opt.found_inf = None, bad.float()
            self.opt.step()
        elif not bad:
            self.opt.step()
        self.skipped += bad
        for m in (self.model, self.learned):
            m.zero_grad(set_to_none=True)
        self.scale.grad = None
        self.step += 1
        self.warm += 1

    def to_device(self, b):
        t = super().to_device(b)
        t["host"] = {k: b[k].numpy() for k in ("clips", "clip_of", "snap", "ev", "evn", "seek", "dtype")}
        return t

    def clock(self, sec):
        """sec [N] -> the three time tokens of each, embedded [N,3,d]; the table is not trained through them."""
        part = torch.stack((sec // 3600, sec // 60 % 60, sec % 60), -1).clamp(0, 99)
        return F.embedding(self.sp.pairs[part], self.words().detach())

    # -- streams

    def encoded(self, t):
        """Encodes every frame, once: rows, their sums, and the streams' clips of eight frames."""
        s, z = Streams(), self.size
        s.t, s.host = t, t["host"]
        f, d = t["frames"].shape[0], self.model.c.width
        fine = torch.empty(f, 32, d, dtype=self.dtype, device=self.dev)
        pooled = torch.empty(f, 11, d, device=self.dev)
        with torch.no_grad():
            for lo in range(0, f, z["chunk"]):
                fine[lo:lo + z["chunk"]] = self.encode(self.draw(t, lo, lo + z["chunk"]))
                pooled[lo:lo + z["chunk"]] = modules.pooled(fine[lo:lo + z["chunk"]].float())
            s.counts = s.host["clips"][:, 1].astype(np.int64)
            s.base = s.host["clips"][:, 0].astype(np.int64)
            s.frame_clip = np.full(f, len(s.counts), np.int64)
            s.frame_clip[:s.counts.sum()] = np.repeat(np.arange(len(s.counts)), s.counts)
            s.rows = mem.Rows(fine, pooled, mem.upload(s.frame_clip, self.dev), len(s.counts) + 1)
            s.fine, s.one = fine, pooled[:, :8].to(self.dtype)
            s.syn = pooled[:, :8].reshape(f, 8 * d).contiguous()
        s.base_dev = mem.upload(np.append(s.base, 0), self.dev)
        # clips of the streaming encoder
        k = self.learned.c.clip_frames
        n = s.counts // k
        s.clip0 = np.concatenate(([0], n.cumsum()))
        lo = np.concatenate([b + k * np.arange(m) for b, m in zip(s.base, n)])
        s.clip_lo = mem.upload(lo if len(lo) else np.zeros(1, np.int64), self.dev)
        s.clip_first = mem.upload(np.repeat(s.clip0[:-1], n) if len(lo) else np.zeros(1, np.int64), self.dev)
        s.clip0_dev = mem.upload(s.clip0, self.dev)
        return s

    def clusters(self, s, small=None, fine=None):
        """Starts Ward's clustering of every stream, coarse and fine, beside other work; `clustered` waits for it."""
        z, c, m = self.size, len(s.counts), len(s.host["snap"])
        if small is None:
            small = np.where(self.rng.random(c) < .65, 64, self.rng.integers(8, 65, c))
            fine = self.rng.choice(z["fine"], c)
        two = np.concatenate((s.host["clips"], s.host["clips"])).copy()
        two[:c, 2], two[c:, 2], two[c:, 3] = small, fine, two[c:, 3] + m
        clips, snaps = mem.upload(two, self.dev), torch.cat((s.t["snap"], s.t["snap"]))

        def run():
            n, info, _ = kernels.flash(s.syn, clips, snaps, most=z["most"], centroids=False)
            if not self.cuda:
                s.n, s.info = n, info
                return
            s.n, s.info = (torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in (n, info))
            s.n.copy_(n, non_blocking=True)
            s.info.copy_(info, non_blocking=True)
            s.kept = (clips, snaps, n, info)

        if self.cuda:
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                run()
                s.ready = torch.cuda.Event()
                s.ready.record()
        else:
            run()

    def clustered(self, s):
        if self.cuda:
            s.ready.synchronize()
        m, info = len(s.host["snap"]), s.info.numpy()
        s.small = [info[i, :s.n[i], :3].astype(np.int64) for i in range(m)]
        s.fines = [info[m + i, :s.n[m + i], :3].astype(np.int64) for i in range(m)]
        s.kept = None

    def segmented(self, s):
        """Cuts every stream into segments for the bridge: where its fine clusters end, at random, or every eight frames."""
        r, ends, first = self.rng, [], [0]
        last = {int(c): i for i, c in enumerate(s.host["clip_of"])}
        for c, n in enumerate(s.counts):
            k = r.integers(4)
            if k < 2 and c in last:
                e = s.fines[last[c]]
                e = e[:, 0] + e[:, 1]
            elif k == 2:
                e = np.cumsum(r.integers(2, int(r.choice((12, 40, 100))), n // 2 + 1))
            else:
                e = np.arange(8, n, 8)
            e = np.unique(np.concatenate((e[e < n], [n])))
            ends.append(e)
            first.append(first[-1] + len(e))
        s.seg_ends, s.seg0 = ends, np.array(first)
        lo = np.concatenate([np.concatenate(([0], e[:-1])) + b for e, b in zip(ends, s.base)])
        n = np.concatenate([e + b for e, b in zip(ends, s.base)]) - lo
        t = np.minimum(n, 8)
        at = lo[:, None] + np.minimum((2 * np.arange(8) + 1) * n[:, None] // (2 * t[:, None]), n[:, None] - 1)
        s.seg_at, s.seg_n = mem.upload(at, self.dev), mem.upload(t, self.dev)
        s.seg_lo, s.seg_hi = mem.upload(lo, self.dev), mem.upload(lo + n, self.dev)
        s.seg_first = mem.upload(np.repeat(s.seg0[:-1], np.diff(s.seg0)), self.dev)
        of = np.zeros(len(s.frame_clip), np.int64)
        of[:n.sum()] = np.repeat(np.arange(len(n)), n)
        s.seg_of = mem.upload(of, self.dev)

    # -- the learned parts over streams

    def clip_rows(self, s, ids):
        k = self.learned.c.clip_frames
        return s.one[s.clip_lo[ids][:, None] + torch.arange(k, device=self.dev)]

    def summarise(self, s, ids, before, has):
        """One step of the streaming encoder for the clips ids [N], given the summaries before."""
        sec, c = s.t["sec"], self.learned.c.clip_frames
        rows = self.clip_rows(s, ids)
        w = self.words().detach()
        return self.learned.stream.clip(before, has, self.clock(sec[s.clip_lo[s.clip_first[ids]]]), self.clock(sec[s.clip_lo[ids]]), rows,
                                        torch.full((len(ids),), c, device=self.dev), w[self.sp.segment])

    def cache_of(self, s, ids, table, low):
        """The newest memories up to the segments ids: [N,32,8,d], and which of them there are (those from low [N] on)."""
        at = ids[:, None] - torch.arange(modules.Bridge.CACHE - 1, -1, -1, device=self.dev)
        there = at >= low[:, None]
        return table[at.clamp_min(0)], there

    def rolled(self, s, depth=None):
        """Runs both recurrences without gradients, in pieces of `depth` that start from the mean of the clip before (from nothing, in the bridge), all
        pieces of all streams at once; pieces begin elsewhere every time."""
        depth = depth or self.size["depth"]
        d = self.model.c.width

        def pieces(first):
            start, end = [], []
            for lo, hi in zip(first[:-1], first[1:]):
                at = np.unique(np.concatenate(([lo], np.arange(lo + self.rng.integers(1, depth + 1), hi, depth)))) if hi > lo else np.zeros(0, np.int64)
                start.append(at)
                end.append(np.append(at[1:], hi) if len(at) else at)
            start, end = np.concatenate(start), np.concatenate(end)
            order = np.argsort(start - end, kind="stable")  # the longest first: those still running are a prefix
            start, end = start[order].astype(np.int64), end[order]
            length = end - start
            live = [int((length > k).sum()) for k in range(int(length.max()) if len(length) else 0)]
            return mem.upload(start, self.dev), live

        with torch.no_grad(), self.autocast():
            start, live = pieces(s.clip0)
            s.summary = torch.zeros(max(1, int(s.clip0[-1])), 8, d, dtype=self.dtype, device=self.dev)
            s.clip_ind = torch.zeros(len(s.summary), self.learned.c.indicator_dim, device=self.dev)
            for k, n in enumerate(live):
                ids = start[:n] + k
                has = ids != s.clip_first[ids]
                prev = (ids - 1).clamp_min(0)
                before = s.summary[prev] if k else self.clip_rows(s, prev).float().mean(1).to(self.dtype)
                h, ind = self.summarise(s, ids, before, has)
                s.summary[ids], s.clip_ind[ids] = h.to(self.dtype), ind
            start, live = pieces(s.seg0)
            s.memory = torch.zeros(int(s.seg0[-1]), 8, d, dtype=self.dtype, device=self.dev)
            s.recalled = torch.zeros_like(s.memory)
            zero = torch.zeros(len(start), 8, d, dtype=self.dtype, device=self.dev)
            for k, n in enumerate(live):
                ids = start[:n] + k
                m, _ = self.learned.bridge.segment(s.one[s.seg_at[ids]], s.seg_n[ids], s.recalled[ids - 1] if k else zero[:n])
                s.memory[ids] = m.to(self.dtype)
                cache, there = self.cache_of(s, ids, s.memory, start[:n])
                s.recalled[ids] = self.learned.bridge.recall(s.memory[ids], cache, there).to(self.dtype)

    def learned_rows(self, s, shown, of):
        """The rows of the learned entries of the prompts `of`, with gradients through one step and the one before. Returns the table [n*8,d] and each
        entry's number in it [B,E]."""
        e = shown.host[of]
        level, number = e[..., 1], e[..., 4]
        clips = np.unique(number[level == layouts.SUMMARY])
        segs = np.unique(number[level == layouts.MEMORY])
        last = np.unique(number[level == layouts.BRIDGED] // 8)
        local = np.zeros_like(number)
        local[level == layouts.SUMMARY] = np.searchsorted(clips, number[level == layouts.SUMMARY])
        local[level == layouts.MEMORY] = len(clips) + np.searchsorted(segs, number[level == layouts.MEMORY])
        b = level == layouts.BRIDGED
        local[b] = len(clips) + len(segs) + np.searchsorted(last, number[b] // 8) * 8 + number[b] % 8
        most, parts = self.size["grad"], []
        if len(clips):
            rows = s.summary[mem.upload(clips, self.dev)]
            pick = np.sort(self.rng.permutation(len(clips))[:most])
            ids = mem.upload(clips[pick], self.dev)
            has = ids != s.clip_first[ids]
            prev = (ids - 1).clamp_min(0)
            had = prev != s.clip_first[prev]
            before, _ = self.summarise(s, prev, s.summary[(prev - 1).clamp_min(0)], had)
            h, _ = self.summarise(s, ids, before, has)
            parts.append(rows.index_copy(0, mem.upload(pick, self.dev), h.to(rows.dtype)))
        both = np.unique(np.concatenate((segs, last)))
        if len(both):
            pick = np.unique(np.concatenate((last, self.rng.permutation(segs)[:max(0, most - len(last))])))
            ids = mem.upload(pick, self.dev)
            has = ids != s.seg_first[ids]
            prev, br = (ids - 1).clamp_min(0), self.learned.bridge
            prior = s.recalled[(prev - 1).clamp_min(0)] * (prev != s.seg_first[prev])[:, None, None]
            before, _ = br.segment(s.one[s.seg_at[prev]], s.seg_n[prev], prior)
            cache, there = self.cache_of(s, prev, s.memory, s.seg_first[prev])
            cache = torch.cat((cache[:, :-1], before[:, None].to(cache.dtype)), 1)
            again = br.recall(before, cache, there) * has[:, None, None]
            m, v = br.segment(s.one[s.seg_at[ids]], s.seg_n[ids], again)
            if len(segs):
                rows = s.memory[mem.upload(segs, self.dev)]
                among = np.isin(pick, segs)
                at = mem.upload(np.searchsorted(segs, pick[among]), self.dev)
                parts.append(rows.index_copy(0, at, m[mem.upload(np.nonzero(among)[0], self.dev)].to(rows.dtype)))
            if len(last):
                parts.append(v[mem.upload(np.searchsorted(pick, last), self.dev)].reshape(-1, 8, v.shape[-1]).to(self.dtype))
        if not parts:
            return None, torch.zeros(local.shape, dtype=torch.long, device=self.dev)
        return torch.cat(parts).view(-1, self.model.c.width), mem.upload(local, self.dev)

    # -- questions as vectors

    def asked(self, t, snaps, k, summary=None, has=None):
        """The query of question k [N] of snapshot snaps [N]."""
        start, n = t["qat"][snaps, k].long().unbind(-1)
        at = (start[:, None] + torch.arange(32, device=self.dev)).clamp(max=t["tok"].shape[1] - 1)
        tok = t["tok"][snaps[:, None], at].long()
        with self.autocast():
            return self.learned.stream.query(F.embedding(tok, self.words().detach()).to(self.dtype), n.clamp(1, 32), summary, has)

    def indicated(self, s):
        """Every frame's indicator, without gradients."""
        with torch.no_grad(), self.autocast():
            s.ind = torch.cat([self.learned.indicator(x) for x in s.fine.split(self.size["chunk"])]).to(self.dtype)

    def scored(self, s, places, snaps, focus):
        """Starts measuring how near every frame, clip and segment is to the questions focus [n,K] (-1: none) of the snapshots snaps [n]; `scores`
        waits for it. places [n]: what the prompts are called."""
        n, width = focus.shape
        s.places = places
        if n == 0:
            s.scores = ()
            return
        at, k = mem.upload(np.repeat(snaps, width), self.dev), mem.upload(np.maximum(focus, 0).reshape(-1), self.dev)
        with torch.no_grad():
            q = self.asked(s.t, at, k)
            done = (s.t["snap"][at].long() + 1) // self.learned.c.clip_frames
            summary = s.summary[(s.clip0_dev[s.t["clip_of"][at]] + done - 1).clamp(0, len(s.summary) - 1)]
            qh = self.asked(s.t, at, k, summary, done > 0)
            with self.autocast():
                seg = self.learned.indicator(s.memory)
            near = [(a.to(self.dtype) @ b.to(self.dtype).T).to(torch.float16).view(n, width, -1) for a, b in ((q, s.ind), (qh, s.clip_ind), (q, seg))]
        s.scores = [torch.empty(x.shape, dtype=x.dtype, pin_memory=self.cuda) for x in near]
        for x, y in zip(s.scores, near):
            x.copy_(y, non_blocking=True)
        if self.cuda:
            s.near = torch.cuda.Event()
            s.near.record()

    def search(self, s, snaps):
        """Losses of finding what a question rests on: among frames, spans and segments by their indicators; among clips by the encoder's."""
        t, z, dev, r = s.t, self.size, self.dev, self.rng
        ln = self.learned

        def some(can, n):
            key, i = torch.where(can, torch.rand(can.shape, device=dev), -1.0).flatten().topk(min(n, can.numel()))
            return key >= 0, snaps[i // DOCS], i % DOCS

        def candidates(at, k, right, wrong):
            n = t["evn"][at, k].long().abs().clamp_min(1)
            j = (torch.rand(len(at), right, device=dev) * n[:, None]).long().clamp(max=7)
            lo, hi = t["ev"][at[:, None], k[:, None], j].long().unbind(-1)
            good = lo + (torch.rand(lo.shape, device=dev) * (hi - lo)).long()
            end = t["snap"][at].long()[:, None]
            bad = (torch.rand(len(at), wrong, device=dev) * (end + 1)).long()
            f = torch.cat((good, bad), 1)
            return torch.minimum(f, end), end.expand_as(f), t["clip_of"][at][:, None].expand_as(f)

        def loss_of(q, ok, at, k, ind, lo, hi, stream, scale):
            sim = q @ ind.T * scale.exp()
            ev, real = t["ev"][at, k].long(), torch.arange(8, device=dev) < t["evn"][at, k].long().abs()[:, None]
            own = t["clip_of"][at][:, None] == stream
            hit = torch.zeros_like(own)
            for j in range(8):
                hit |= (lo < ev[:, j, 1, None]) & (hi > ev[:, j, 0, None]) & real[:, j, None]
            hit &= own
            later = lo > t["snap"][at].long()[:, None]
            away = torch.where(own, ~hit & ~later, torch.rand(len(stream), device=dev) < .25)
            rest = torch.where(away, sim, -1e4).logsumexp(1, keepdim=True)
            hit &= ok[:, None]
            loss = (F.softplus(rest - sim) * hit).sum(1) / hit.sum(1).clamp_min(1)
            ok = hit.any(1)
            first = torch.where(own & ~later, sim, -1e4).argmax(1)
            found = hit.gather(1, first[:, None])[:, 0] & ok
            return (loss * ok).sum() / ok.sum().clamp_min(1), found.sum(), ok.sum()

        out = []
        ok, at, k = some(t["seek"][snaps], z["seek"])
        f, end, stream = (x.reshape(-1) for x in candidates(at, k, 4, 8))
        base = s.base_dev[stream]
        kind = r.random()
        lo, hi = f, f + 1
        with self.autocast():
            if kind < .45:
                ind = ln.indicator(s.fine[base + f])
            elif kind < .7:  # a merged span: the direction of its frames' sum
                reach = (torch.rand(2, len(f), device=dev) * int(r.choice((4, 12, 30)))).long()
                lo, hi = (f - reach[0]).clamp_min(0), torch.minimum(f + reach[1], end) + 1
                frames = lo[:, None] + (torch.arange(1, 8, 2, device=dev) * (hi - lo)[:, None]) // 8
                ind = modules.unit(ln.indicator(s.fine[(base[:, None] + frames).reshape(-1)]).view(len(f), 4, -1).sum(1))
            elif kind < .9:
                level = int(r.integers(1, 4))
                if r.random() < .5:
                    reach = (torch.rand(2, len(f), device=dev) * int(r.choice((4, 12, 30)))).long()
                    lo, hi = (f - reach[0]).clamp_min(0), torch.minimum(f + reach[1], end) + 1
                row = torch.arange(layouts.ROWS[level], device=dev)[None]
                ind = ln.indicator(s.rows.spans(torch.full_like(row, level), row, (base + lo)[:, None], (base + hi)[:, None]).to(self.dtype))
            else:
                seg = s.seg_of[base + f]
                lo, hi = s.seg_lo[seg] - base, s.seg_hi[seg] - base
                ind = ln.indicator(s.memory[seg])
        out.append(loss_of(self.asked(t, at, k), ok, at, k, ind, lo, hi, stream, self.scale[0]))

        c = ln.c.clip_frames
        ok, at, k = some(t["evn"][snaps] != 0, z["seek_clips"])
        f, end, stream = candidates(at, k, 2, 2)
        done = (end + 1) // c
        ok = ok & (done[:, 0] > 0)
        clip = torch.minimum(f // c, (done - 1).clamp_min(0))
        ids = (s.clip0_dev[stream] + clip).clamp(max=len(s.clip_lo) - 1).reshape(-1)
        has = ids != s.clip_first[ids]
        with self.autocast():
            _, ind = self.summarise(s, ids, s.summary[(ids - 1).clamp_min(0)], has)
        summary = s.summary[(s.clip0_dev[stream[:, 0]] + done[:, 0] - 1).clamp(0, len(s.summary) - 1)]
        q = self.asked(t, at, k, summary, (torch.rand(len(at), device=dev) < .6) & (done[:, 0] > 0))
        clip = clip.reshape(-1)
        out.append(loss_of(q, ok, at, k, ind, clip * c, clip * c + c, stream.reshape(-1), self.scale[1]))
        self.extra += torch.stack([x.detach().float() for o in out for x in o])
        return out[0][0] + out[1][0]

    # -- prompts

    def views(self, s, snaps, focus=None):
        """layouts.View of the snapshots snaps, each with its questions in focus, and their scores where there are some."""
        h, c, place = s.host, self.learned.c.clip_frames, {}
        if focus is not None:
            if self.cuda and s.scores:
                s.near.synchronize()
            place = {int(p): i for i, p in enumerate(s.places)}
        for i, m in enumerate(snaps):
            st, snap = int(h["clip_of"][m]), int(h["snap"][m])
            first, clips = int(s.clip0[st]), min((snap + 1) // c, int(s.clip0[st + 1] - s.clip0[st]))
            v = layouts.View(snap, s.small[m], s.fines[m], h["ev"][m].astype(np.int64), h["evn"][m].astype(np.int64), first, clips, c, int(s.seg0[st]), s.seg_ends[st])
            if focus is not None:
                n = int((focus[i] >= 0).sum())
                v.focus = focus[i, :n]
                if i in place:
                    ranges = ((s.base[st], snap + 1), (first, clips), (v.seg0, int((v.seg_end <= snap + 1).sum())))
                    v.scores, v.clip_scores, v.seg_scores = (x[place[i], :n, lo:lo + k].float().numpy() for x, (lo, k) in zip(s.scores, ranges))
            yield v

    def planned(self, s):
        """Draws what is shown at every snapshot, and starts what that takes."""
        r, n = self.rng, len(s.host["snap"])
        s.names = r.choice(self.names, n, p=list(self.mix.values()))
        s.focus = np.full((n, FOCUS), -1, np.int64)
        want = np.nonzero(np.isin(s.names, layouts.SELECTING))[0]
        for i in want:
            can = np.nonzero((s.host["evn"][i] != 0) & (s.host["dtype"][i] >= 0))[0]
            k = min(len(can), int(r.choice((1, 1, 2, 3, 4))))
            s.focus[i, :k] = r.choice(can, k, replace=False)
        some = want[(s.focus[want, 0] >= 0) & (r.random(len(want)) < .75)]
        self.clustered(s)
        self.segmented(s)
        self.rolled(s)
        self.indicated(s)
        self.scored(s, some, some, s.focus[some])

    def laid_out(self, s):
        """The prompts that were planned."""
        n = len(s.host["snap"])
        s.keep, tables = np.ones((n, DOCS), bool), []
        for i, v in enumerate(self.views(s, np.arange(n), s.focus)):
            e, s.keep[i] = layouts.build(s.names[i], v, self.rng)
            tables.append(e)
        s.shown = mem.Shown(tables, s.base[s.host["clip_of"]], self.dev)
        s.of, s.family = np.arange(n), np.array([self.names.index(x) for x in s.names])

    def groups(self, shown):
        """Prompts in random order, in full batches of like length; what is left over waits in the next length: (indices, length)."""
        z, out, rest = self.size, [], np.zeros(0, np.int64)
        low = 0
        for p in z["prompts"]:
            i = np.nonzero((shown.length > low) & (shown.length <= p))[0]
            i = self.rng.permutation(np.concatenate((i, rest)))
            n = len(i) // z["b"] * z["b"]
            out += [(i[k:k + z["b"]], p) for k in range(0, n, z["b"])]
            low, rest = p, i[n:]
        return [out[i] for i in self.rng.permutation(len(out))], rest

    def answers(self, s, shown, of, keep, sel, p, learn=True):
        """Loss of the questions behind the prompts sel [B] (numpy), padded to p; which tokens were right; and the questions."""
        t, dev = s.t, self.dev
        at = mem.upload(sel, dev)
        snaps = mem.upload(of[sel], dev)
        with torch.set_grad_enabled(learn), self.autocast():
            table, number = self.learned_rows(s, shown, sel)
        ptok, level, row, lo, hi, number, group = shown.rows(at, p, self.sp, t["sec"], number)
        rows = s.rows.assemble(ptok, level, row, lo, hi, number, self.words(), table)
        q = {k: t[k].index_select(0, snaps) for k in ("tok", "lab", "pos", "doc", "grp", "wt", "dtype")}
        kept = mem.upload(keep[sel], dev)
        doc = q["doc"].long()
        q["wt"] = q["wt"] * (kept.gather(1, doc.clamp_min(0)) & (doc >= 0))
        q["dtype"] = torch.where(kept, q["dtype"], -1)
        loss, right = self.language(rows, torch.arange(p, device=dev)[None], group, q, shown.plen[at, None] + q["pos"].long())
        return loss, right, q, snaps

    def exact(self, right, q):
        """[B,DOCS]: which questions count, and which were answered exactly."""
        doc = q["doc"].long()
        ok = torch.ones(doc.shape[0], DOCS + 1, dtype=torch.int32, device=doc.device)
        ok.scatter_reduce_(1, torch.where(doc < 0, DOCS, doc), right.int(), "amin")
        live = q["dtype"] >= 0
        return live, live & (ok[:, :DOCS] > 0)

    def words_of_families(self):
        v = self.family_tally.cpu().numpy()
        self.family_tally.zero_()
        e = self.extra.cpu().numpy()
        n = max(1, self.searches)
        self.extra.zero_()
        self.searches = 0
        self.families = {n: [int(v[i, 0]), round(float(v[i, 1] / max(1, v[i, 0])), 4)] for i, n in enumerate(self.names)} | \
            {"search": [int(e[2]), round(float(e[1] / max(1, e[2])), 4)], "search clips": [int(e[5]), round(float(e[4] / max(1, e[5])), 4)]}
        return (" ".join(f"{n} {v[i, 1] / max(1, v[i, 0]):.3f}" for i, n in enumerate(self.names)) +
                f" | search loss {e[0] / n:.3f} first {e[1] / max(1, e[2]):.3f}; clips {e[3] / n:.3f} {e[4] / max(1, e[5]):.3f}; scale {self.scale.exp().tolist()}")

    searches = 0

    # -- held-out streams

    def measured(self, name, table, rows):
        """Closed answers exactly right: all, of what is older than ten minutes, and about now."""
        def share(fits):
            some = [v for k, v in table.items() if fits(k)]
            n = sum(k for k, _ in some)
            return f"{sum(k * v for k, v in some) / n:.3f} of {n}" if n else "-"

        closed = lambda k: k.split("@")[0] in CLOSED
        self.say(f"  held out, {name} ({rows:.0f} rows): closed {share(closed)}; old {share(lambda k: closed(k) and '@old' in k)}; "
                 f"now {share(lambda k: k == 'current_state')}; when {share(lambda k: k.startswith('when'))}; order {share(lambda k: k.startswith('ordered'))}; all {share(lambda k: True)}")
        self.curve.append({"t": round(self.elapsed(), 1), "stage": self.stage, "step": self.step, "set": name, "rows": rows, "types": table})

    def drift(self, s):
        """Says how the summaries of the longest stream behave, run from its beginning to its end, and how far the pieces of training are off."""
        pieces = s.summary.float()
        self.rolled(s, 1 << 20)
        full = s.summary.float()
        st = int(np.diff(s.clip0).argmax())
        lo, hi = int(s.clip0[st]), int(s.clip0[st + 1])
        rms = full[lo:hi].pow(2).mean((1, 2)).sqrt().cpu()
        at = [k for k in (0, 1, 2, 10, 30, 100, 300, 800) if k < hi - lo - 1] + [hi - lo - 1]
        off = ((full - pieces).norm(dim=(1, 2)) / full.norm(dim=(1, 2)).clamp_min(1e-6)).mean()
        self.say("  summaries, rms after clip " + ", ".join(f"{k}: {float(rms[k]):.3f}" for k in at) + f"; pieces of {self.size['depth']} differ from the whole by {float(off):.4f}")
        self.curve.append({"t": round(self.elapsed(), 1), "stage": self.stage, "step": self.step, "set": "drift", "types": {}, "rms": {k: float(rms[k]) for k in at}, "off": float(off)})

    def recalled(self, s, one, focus):
        """Of the stretches that a question rests on, how many are among the k nearest frames, clusters, clips, segments: hour-long streams, questions
        that name no time."""
        found = {}
        for i, v in enumerate(self.views(s, one, focus)):
            k, st = focus[i, 0], int(s.host["clip_of"][one[i]])
            if s.counts[st] < 3000 and s.counts.max() > 3000 or not s.host["seek"][one[i], k]:
                continue
            spans = v.ev[k, :abs(int(v.evn[k]))]
            f, c = np.arange(v.snap + 1), np.arange(v.clips) * v.clip_frames
            seg = v.seg_end[v.seg_end <= v.snap + 1]
            for name, lo, hi, score in (("frames", f, f + 1, v.scores[0]), ("clusters", v.fine[:, 0], v.fine[:, 0] + v.fine[:, 1], layouts.cluster_scores(v.fine, v.scores)[0]),
                                        ("clips", c, c + v.clip_frames, v.clip_scores[0]), ("segments", np.concatenate(([0], seg[:-1])), seg, v.seg_scores[0])):
                for top in (32, 64):
                    near = layouts.nearest(score, top)
                    hit = [bool(((lo[near] < b) & (hi[near] > a)).any()) for a, b in spans]
                    found.setdefault((name, top), []).append(max(hit) if v.evn[k] < 0 else np.mean(hit))
                    chance = [bool(((lo[p] < b) & (hi[p] > a)).any()) for p in [self.rng.permutation(len(lo))[:top]] for a, b in spans]
                    found.setdefault((name + " by chance", top), []).append(max(chance) if v.evn[k] < 0 else np.mean(chance))
        table = {f"{n}@{k}": [len(x), round(float(np.mean(x)), 4)] for (n, k), x in found.items()}
        self.say("  evidence found: " + " ".join(f"{k} {v:.3f}" for k, (_, v) in table.items()) + f" of {len(next(iter(found.values()), []))} questions")
        self.curve.append({"t": round(self.elapsed(), 1), "stage": self.stage, "step": self.step, "set": "recall", "types": table})

    def measure(self, s, whole=False):
        """Exact answers of every layout in MEASURED, by question type, on streams s, and how much of the evidence a search finds."""
        mine, self.rng, most = self.rng, np.random.default_rng(16), self.size["most"]
        self.indicated(s)
        if not hasattr(s, "small"):
            self.clusters(s, np.full(len(s.counts), min(64, most)), np.full(len(s.counts), most))
            self.clustered(s)
            self.segmented(s)
        self.rolled(s)
        if whole and not self.a.only:
            self.drift(s)
        n = len(s.host["snap"])
        hour = s.counts[s.host["clip_of"]] > 3000
        one, focus = [], []
        for i in range(n):  # the questions that get a prompt of their own
            k = self.rng.permutation(np.nonzero(s.host["dtype"][i] >= 0)[0])[:self.size["per_question"] * (3 if whole and not self.a.only else 1)]
            one += [i] * len(k)
            focus += [[j] for j in k]
        one, focus = np.array(one), np.array(focus)
        self.scored(s, np.arange(len(one)), one, focus)
        self.recalled(s, one, focus)
        for name, family, budget, options, own in MEASURED:
            of = one if own else np.arange(n)
            tables, keep = [], np.ones((len(of), DOCS), bool)
            for i, v in enumerate(self.views(s, of, focus if own else None)):
                tables.append(layouts.build(family, v, self.rng, budget, **options)[0])
                if own:
                    keep[i] = np.arange(DOCS) == focus[i, 0]
            shown = mem.Shown(tables, s.base[s.host["clip_of"][of]], self.dev)
            tally = torch.zeros(2, *self.tally.shape, device=self.dev)
            groups, rest = self.groups(shown)
            if len(rest):  # the last group is filled up with prompts that do not count
                fill = np.resize(rest, self.size["b"])
                groups.append((fill, self.size["prompts"][-1]))
            for sel, p in groups:
                _, right, q, _ = self.answers(s, shown, of, keep, sel, p, learn=False)  # with gradients that nobody takes: nothing is compiled anew
                with torch.no_grad():
                    count, ok = self.exact(right, q)
                    if p == self.size["prompts"][-1] and len(rest) and sel is groups[-1][0]:
                        count = count & (torch.arange(len(sel), device=self.dev) < len(rest))[:, None]
                long = mem.upload(hour[of[sel]], self.dev)
                for h in range(2):
                    fits = count & (long == bool(h))[:, None]
                    typ = torch.where(fits, q["dtype"].long(), 63).reshape(-1)
                    tally[h].index_add_(0, typ, torch.stack((fits, fits & ok), -1).reshape(-1, 2).float())
            for h, words in ((0, "10 min"), (1, "1 h")):
                table = self.table(tally[h])
                if table:
                    i = np.nonzero(hour[of] == bool(h))[0]
                    self.measured(f"{name}, {words}", table, float(np.mean([layouts.size(tables[j]) for j in i])))
        self.rng = mine
        self.save_curve()

    # -- keeping

    def checkpoint(self):
        t = time.time()
        tmp = os.path.join(self.a.out, "ckpt.tmp")
        torch.save({"model": self.model.state_dict(), "learned": self.learned.state_dict(), "scale": self.scale.data, "opt": self.opt.state_dict(), "t0": self.t0,
                    "step": self.step, "curve": self.curve}, tmp)
        os.replace(tmp, os.path.join(self.a.out, "ckpt.pt"))
        export.save(self.model, os.path.join(self.a.out, "export"), self.learned)
        self.save_curve()
        self.say(f"  checkpoint in {time.time() - t:.1f} s")

    def resume(self):
        path = os.path.join(self.a.out, "ckpt.pt")
        if os.path.exists(path):
            c = torch.load(path, map_location=self.dev, weights_only=False)
            self.model.load_state_dict(c["model"])
            self.learned.load_state_dict(c["learned"])
            self.scale.data.copy_(c["scale"])
            self.opt.load_state_dict(c["opt"])
            self.t0, self.step, self.curve = c["t0"], c["step"], c["curve"]
            self.say("resumed")


def main():
    ap = train.arguments()
    ap.add_argument("--init", help="a model directory to go on from")
    ap.add_argument("--only", help="what is trained, of decoder,indicator,stream,bridge; all by default")
    ap.add_argument("--fresh", help="one of indicator, stream, bridge: begins anew, whatever --init has")
    ap.add_argument("--families", help="the mix of layouts in place of layouts.FAMILIES: flash=.5,bridge=.5")
    ap.add_argument("--cap", type=int, help="frames of a batch")
    ap.add_argument("--held", help="held-out streams of an hour and of ten minutes: 6,12")
    ap.add_argument("--blend", default="", help="DIR:0.8,0.6: at the end, measure the decoder mixed with that of DIR, by these shares of its own")
    ap.add_argument("--measured", help="measure only these layouts, separated by commas")
    ap.add_argument("--memory-lr", type=float, default=1e-3)
    ap.add_argument("--measure-every", type=float, default=150, help="seconds between measurements on held-out streams")
    ap.add_argument("--search", type=float, default=0.5, help="weight of the search losses")
    ap.add_argument("--reserve", type=float, default=35, help="seconds kept for the last checkpoint and measurement")
    ap.add_argument("--first", action="store_true", help="measure before the first step")
    ap.set_defaults(lr=5e-4, warmup=100, workers="10,0,0", seconds=660)
    a = ap.parse_args()
    FULL["cap"] = a.cap or FULL["cap"]
    if a.held:
        FULL["hours"], FULL["tens"] = (int(x) for x in a.held.split(","))
    MEASURED[:] = [m for m in MEASURED if not a.measured or m[0] in a.measured.split(",")]
    os.makedirs(a.out, exist_ok=True)
    if a.device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans every new number of sequences anew: 13 ms of the host each
    z = TINY if a.tiny else FULL
    log = open(os.path.join(a.out, "workers.log"), "ab")

    def pool(n, args, first=0, extra=(), depth=48):
        args = ["-mode", "clips", "-qa", str(z["qa"]), "-longest", str(z["longest"]), *args]
        return batches.Pool("mixed", n, z["q"], a.feeder, a.tokenizer, args, first, log, extra, depth)

    seed = 100_000
    feed = pool(int(a.workers.split(",")[0]), ["-shots", str(z["shots"]), "-long", str(z["long"]), "-long-shots", str(z["long_shots"])], first=40_000)
    held = [pool(1, ["-monitor", "-shots", "10"], first=seed, extra=("--aged",))] * z["tens"]
    if z["hours"]:
        held = [pool(1, ["-monitor", "-shots", "16", "-long", "1", "-long-shots", "16"], first=seed + 1000, extra=("--aged",))] * z["hours"] + held
    tr = Tuner(a)
    if a.resume:
        tr.resume()
    tr.say(f"{sum(p.numel() for p in tr.model.parameters()) / 1e6:.1f} M parameters, {sum(p.numel() for p in tr.learned.parameters()) / 1e6:.1f} M of the memory, "
           f"{a.device}, torch {torch.__version__}, flex {tr.flex}, sizes {z}")
    if a.check:
        import check

        check.flash(tr)
    make = batches.Builder(lambda r=np.random.default_rng(14): batches.build_long(feed, tr.types, r, z["cap"], z["chunk"]), tr.cuda, depth=3)
    ring = train.Ring(make, tr, keep=1, patience=0.5)
    held_out = []

    def measure(whole=False):
        if not held_out:
            items = [p.get() for p in held]
            for p in set(held):
                p.stop()
            f = sum(len(i["frames"]) for i in items)
            b = batches.build_clips(items, tr.types, np.random.default_rng(15), -(-f // z["chunk"]) * z["chunk"])
            held_out.append(tr.encoded(tr.to_device({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in b.items()})))
        t = time.time()
        tr.measure(held_out[0], whole)
        tr.say(f"  measured in {time.time() - t:.1f} s")

    state = {"next": time.time() + a.every, "mark": time.time(), "frames": 0, "steps": 0, "saved": time.time(), "measured": time.time()}
    limit = int(a.steps) if a.steps else 1 << 60
    spent = {}

    def going():
        return tr.elapsed() < a.seconds - a.reserve and tr.step < limit

    def timed(name, fn, *args):
        t = time.time()
        out = fn(*args)
        spent[name] = spent.get(name, 0) + time.time() - t
        return out

    def step(s, sel, p):
        loss, right, q, snaps = tr.answers(s, s.shown, s.of, s.keep, sel, p)
        with torch.no_grad():
            tr.loss_sum += torch.stack((loss.detach().float(), torch.ones((), device=tr.dev)))
            tr.count(tr.tally, right, q)
            live, ok = tr.exact(right, q)
            tr.family_tally.index_add_(0, mem.upload(s.family[sel], tr.dev), torch.stack((live.sum(1), ok.sum(1)), -1).float())
        if a.search:
            loss = loss + a.search * tr.search(s, snaps)
            tr.searches += 1
        tr.update(loss)
        state["steps"] += 1

    def beat():
        now = time.time()
        if now < state["next"]:
            return
        if tr.cuda:
            torch.cuda.synchronize()
        dt = time.time() - state["mark"]
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if tr.cuda else ""
        words = " ".join(f"{k} {v:.2f}" for k, v in spent.items())
        spent.clear()
        tr.progress(f"{state['steps'] / dt:.2f} steps/s {state['frames'] / dt:.0f} frames/s {memory} {ring.text()} | host s: {words} | {tr.words_of_families()}")
        tr.curve[-1]["families"] = tr.families
        if now - state["measured"] > a.measure_every:
            measure()
            state["measured"] = time.time()
        if now - state["saved"] > 100:
            tr.checkpoint()
            state["saved"] = time.time()
        state.update(next=time.time() + a.every, mark=time.time(), frames=0, steps=0)

    def fresh():
        t, again = ring.get()
        s = tr.encoded(t)
        tr.clusters(s)
        state["frames"] += t["frames"].shape[0]
        return s

    if a.first:
        measure()
    s = fresh()
    tr.planned(s)
    tr.laid_out(s)
    while going():
        after = timed("encode", fresh)
        groups, _ = tr.groups(s.shown)
        for i, (sel, p) in enumerate(groups):
            timed("step", step, s, sel, p)
            if i == len(groups) // 2:
                timed("plan", tr.planned, after)
            if not going():
                break
            beat()
        if not hasattr(after, "names"):
            timed("plan", tr.planned, after)
        timed("layout", tr.laid_out, after)
        s = after
    tr.progress(tr.words_of_families())
    feed.stop()
    make.stop()
    tr.checkpoint()
    measure(whole=True)
    folder, _, shares = a.blend.partition(":")
    if folder:
        other = golden.load(folder).language_model.state_dict()
        own = {k: v.clone() for k, v in tr.model.language_model.state_dict().items()}
        for share in shares.split(","):
            tr.say(f"  {share} of this decoder, the rest of {os.path.basename(folder)}'s")
            tr.model.language_model.load_state_dict({k: float(share) * v + (1 - float(share)) * other[k].to(v) for k, v in own.items()})
            measure()
    tr.save_curve()
    tr.say("done")
    with open(os.path.join(a.out, "DONE"), "w") as f:
        f.write("ok\n")
    os._exit(0)  # threads and pipes need no farewell


if __name__ == "__main__":
    main()

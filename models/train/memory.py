"""From a memory to a prompt, on tensors: which entries are shown, and the rows of the prompt they make. An entry is a control token, six digits of
wall time (three tokens), and its rows. Plan is the standard layout of stages 2 and 3, all on the GPU: bos; the details in time order; the synopses in
time order; the newest frame. Shown takes the entries of any layout, as layouts.py makes them. The Go side builds the same."""

import numpy as np
import torch

import layouts

FLASH, RECENT, NEWEST, NONE = 0, 1, 2, 3
DM = 16  # most details
DETAIL_ROWS, SYNOPSIS_ROWS = 36, 12


def longest(synopses, details):
    return 1 + DETAIL_ROWS * (details + 1) + SYNOPSIS_ROWS * synopses


class Plan:
    """What every snapshot shows. n [S], info [S,KMAX,4] from kernels.flash; base [S] flat index of the clip's first frame; snap [S] the
    snapshot's frame within the clip; mode, details, recent [S]; sec [F] second of the day of every flat frame."""

    def __init__(self, n, info, base, snap, mode, details, recent, sec):
        n, info, base, snap = n.long(), info.long(), base.long(), snap.long()
        dev, k = n.device, torch.arange(info.shape[1], device=n.device)
        j = torch.arange(DM, device=dev)
        flash, rec = mode == FLASH, mode == RECENT
        self.ns = torch.where(flash, n, 0)
        self.nd = torch.where(flash, torch.minimum(details, n), torch.where(rec, torch.minimum(recent - 1, snap), 0))
        self.hn = (mode != NONE).long()
        # the heaviest clusters, earlier first among equals, then back into time order
        key = torch.where(k < n[:, None], info[:, :, 1] * info.shape[1] + (info.shape[1] - 1 - k), -1)
        top = key.topk(DM, 1).indices
        top = torch.where(j < self.nd[:, None], top, info.shape[1]).sort(1).values.clamp(max=info.shape[1] - 1)
        frame = torch.where(rec[:, None], (snap - self.nd)[:, None] + j, info[:, :, 2].gather(1, top))
        last = sec.shape[0] - 1
        self.dframe = (base[:, None] + frame).clamp(0, last)
        self.dsec = sec[self.dframe]
        self.ssec = sec[(base[:, None] + info[:, :, 0]).clamp(0, last)]
        self.nframe = base + snap
        self.nsec = sec[self.nframe]
        self.plen = 1 + DETAIL_ROWS * (self.nd + self.hn) + SYNOPSIS_ROWS * self.ns

    def rows(self, sel, p, sp):
        """Rows of the prompts of snapshots sel [B], padded to p. sp: Special. Returns ptok, level, vidx [B,p]: level 0 is the token
        ptok, 1 row vidx of fine [F*32,width], 2 row vidx of synopses [S*KMAX*8,width]; and the group, -2 in the padding."""
        nd, ns, hn = self.nd[sel, None], self.ns[sel, None], self.hn[sel, None]
        at = (torch.arange(p, device=sel.device) - 1).expand(sel.shape[0], p)
        d_end, s_end = DETAIL_ROWS * nd, DETAIL_ROWS * nd + SYNOPSIS_ROWS * ns
        n_end = s_end + DETAIL_ROWS * hn
        is_d, is_s, is_n = (at >= 0) & (at < d_end), (at >= d_end) & (at < s_end), (at >= s_end) & (at < n_end)
        ed = (at // DETAIL_ROWS).clamp(0, DM - 1)
        es = ((at - d_end) // SYNOPSIS_ROWS).clamp(0, self.ssec.shape[1] - 1)
        r = torch.where(is_d, at % DETAIL_ROWS, torch.where(is_s, (at - d_end) % SYNOPSIS_ROWS, at - s_end))
        sec = torch.where(is_d, self.dsec[sel].gather(1, ed), torch.where(is_s, self.ssec[sel].gather(1, es), self.nsec[sel, None]))
        part = torch.where(r == 1, sec // 3600, torch.where(r == 2, sec // 60 % 60, sec % 60)).clamp(0, 99)
        control = torch.where(is_d, sp.detail, torch.where(is_s, sp.segment, sp.newest))
        entry = is_d | is_s | is_n
        ptok = torch.where(at < 0, sp.bos, torch.where(entry, torch.where(r == 0, control, sp.pairs[part]), sp.pad))
        visual = entry & (r >= 4)
        level = torch.where(visual, torch.where(is_s, 2, 1), 0)
        frame = torch.where(is_d, self.dframe[sel].gather(1, ed), self.nframe[sel, None])
        vidx = torch.where(is_s, (sel[:, None] * self.ssec.shape[1] + es) * 8, frame * 32) + r - 4
        group = torch.where(at < n_end, 0, -2)
        return ptok, level, vidx, group


class Special:
    def __init__(self, special, pairs, device):
        for k, v in special.items():
            setattr(self, k.strip("<|>"), v)
        self.pairs = torch.tensor(pairs, device=device)
        self.roles = torch.tensor([self.segment, self.detail, self.newest], device=device)


def assemble(ptok, level, vidx, fine, syn, embed):
    """fine [F*32,width], syn [*,width], embed [V,width] -> rows [B,P,width] in bf16 where fine is."""
    b, p = ptok.shape
    spread = torch.arange(b * p, device=ptok.device)

    def take(table, want):
        idx = torch.where((level == want).reshape(-1), vidx.reshape(-1), spread % table.shape[0])
        return table.index_select(0, idx).view(b, p, -1)

    x = torch.nn.functional.embedding(ptok, embed).to(fine.dtype)
    lv = level[..., None]
    x = torch.where(lv == 1, take(fine, 1), x)
    return torch.where(lv == 2, take(syn, 2).to(x.dtype), x)


class Shown:
    """Prompts of any layout. tables: one a prompt, as layouts.py makes them; base [S]: the flat index of its stream's first frame."""

    def __init__(self, tables, base, device):
        n = np.array([len(e) for e in tables])
        self.host = np.zeros((len(tables), max(1, n.max()), 5), np.int64)
        for i, e in enumerate(tables):
            self.host[i, :n[i]] = e
            self.host[i, :n[i], 2:4] += base[i]
        there = np.arange(self.host.shape[1]) < n[:, None]
        self.host[..., 1][~there] = -1
        self.ends = 1 + np.where(there, layouts.ROWS[self.host[..., 1]] + layouts.HEAD, 0).cumsum(1)
        self.length = self.ends[:, -1]
        self.entries = upload(self.host.astype(np.int32), device)
        self.end = upload(self.ends.astype(np.int32), device)
        self.plen = upload(self.length.astype(np.int64), device)

    def rows(self, sel, p, sp, sec, number):
        """Rows of the prompts sel [B], padded to p. number [B,E]: what the learned entries are in the table at hand. Returns ptok, level, row, lo,
        hi, number [B,p] and the group: level is -1 for the token ptok, else where the entry's row `row` comes from; see layouts."""
        e, end = self.entries[sel].long(), self.end[sel]
        at = torch.arange(p, device=sel.device, dtype=end.dtype).expand(len(sel), p).contiguous()
        i = torch.searchsorted(end, at, right=True).clamp(max=end.shape[1] - 1)
        start = torch.cat((torch.ones_like(end[:, :1]), end[:, :-1]), 1)
        inside = (at >= 1) & (at < end[:, -1:])
        role, level, lo, hi = (e[..., k].gather(1, i) for k in range(4))
        r = at - start.gather(1, i) - layouts.HEAD
        time = sec[lo]
        part = torch.where(r == -3, time // 3600, torch.where(r == -2, time // 60 % 60, time % 60)).clamp(0, 99)
        head = torch.where(r == -layouts.HEAD, sp.roles[role], sp.pairs[part])
        ptok = torch.where(at == 0, sp.bos, torch.where(inside & (r < 0), head, sp.pad))
        level = torch.where(inside & (r >= 0), level, -1)
        return ptok, level, r, lo, hi, number.gather(1, i), torch.where(at < end[:, -1:], 0, -2)


def upload(a, device):
    t = torch.from_numpy(np.ascontiguousarray(a))
    return t.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else t


class Rows:
    """Where the rows of entries come from: fine [F,32,d], and the means of any span by sums of the pooled levels."""

    OFFSET = (0, 0, 8, 10)  # of the levels 0-3 in a frame's 11 pooled rows

    def __init__(self, fine, pooled, clip_of, clips):
        """pooled [F,11,d] f32; clip_of [F] < clips: the stream of every frame. Sums run over what a stream differs by from its mean, or they would lose the
        digits that a single frame's rows are found by."""
        f, k, d = pooled.shape
        n = torch.zeros(clips, device=pooled.device).index_add_(0, clip_of, torch.ones(f, device=pooled.device))
        self.mean = torch.zeros(clips, k, d, device=pooled.device).index_add_(0, clip_of, pooled) / n.clamp_min(1)[:, None, None]
        self.sum = torch.cat((torch.zeros_like(pooled[:1]), (pooled - self.mean[clip_of]).cumsum(0)))
        self.clip_of, self.fine, self.d = clip_of, fine, d
        self.offset = torch.tensor(self.OFFSET, device=fine.device)

    def spans(self, level, row, lo, hi):
        """Row `row` of the mean over frames [lo, hi) at a level 1-3; all of one shape."""
        k = self.offset[level] + row
        n = (hi - lo).clamp_min(1)[..., None]
        take = lambda t, i: t.view(-1, self.d)[i]
        return (take(self.sum, hi * 11 + k) - take(self.sum, lo * 11 + k)) / n + take(self.mean, self.clip_of[lo] * 11 + k)

    def assemble(self, ptok, level, row, lo, hi, number, embed, learned=None):
        """[B,P,width] in the fine rows' type. learned [N*8,d]: the learned entries' rows."""
        b, p = ptok.shape
        row = row.clamp(0, 31)
        x = torch.nn.functional.embedding(ptok, embed).to(self.fine.dtype)
        lv = level[..., None]
        x = torch.where(lv == 0, self.fine.view(-1, self.d)[torch.where(level == 0, lo * 32 + row, 0)], x)
        mean = (level >= 1) & (level <= 3)
        at = lambda v: torch.where(mean, v, 0)
        x = torch.where(mean[..., None], self.spans(at(level), at(row), at(lo), at(hi)).to(x.dtype), x)
        if learned is not None:  # what is not taken is spread over the table, or its backward would queue for one row
            spread = torch.arange(b * p, device=ptok.device).view(b, p) % len(learned)
            i = torch.where(level > 3, number * 8 + row, spread)
            x = torch.where(lv > 3, learned.index_select(0, i.view(-1)).view(b, p, -1).to(x.dtype), x)
        return x

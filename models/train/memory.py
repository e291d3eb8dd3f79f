"""From a memory to a prompt, on tensors: which entries are shown, and the rows of the prompt they make. The layout is fixed and the
Go side builds the same: bos; the details in time order; the synopses in time order; the newest frame. An entry is a control token, six
digits of wall time (three tokens), and its rows."""

import torch

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

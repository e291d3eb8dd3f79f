import torch

import kernels
import memory as mem

SP = mem.Special({f"<|{n}|>": i for i, n in enumerate(("bos", "eos", "pad", "user", "assistant", "segment", "detail", "newest"))}, list(range(100, 200)), "cpu")


def prompt(clusters, snap, base, sec, details, s):
    """The layout in plain words: a list of (token) or (level, index)."""
    out = [SP.bos]

    def entry(control, t, level, first, rows):
        out.append(control)
        out.extend(100 + v for v in (t // 3600, t // 60 % 60, t % 60))
        out.extend((level, first + r) for r in range(rows))

    heavy = sorted(range(len(clusters)), key=lambda i: (-clusters[i][1], i))[:details]
    for i in sorted(heavy):
        f = base + clusters[i][2]
        entry(SP.detail, int(sec[f]), 1, f * 32, 32)
    for i, c in enumerate(clusters):
        entry(SP.segment, int(sec[base + c[0]]), 2, (s * kernels.KMAX + i) * 8, 8)
    entry(SP.newest, int(sec[base + snap]), 1, (base + snap) * 32, 32)
    return out


def test_layout():
    g = torch.Generator().manual_seed(3)
    dim, lens, ks, ds = 48, [90, 5, 200], [12, 64, 24], [8, 8, 3]
    rows = [torch.randn(t, dim, generator=g).cumsum(0).contiguous() for t in lens]
    clips, snaps, base = [], [], 0
    for t, k in zip(lens, ks):
        clips.append([base, t, k, len(snaps), 2])
        snaps += [t // 2, t - 1]
        base += t
    sec = torch.randint(0, 86400, (base,), generator=g)
    n, info, _ = kernels.flash(torch.cat(rows), torch.tensor(clips, dtype=torch.int32), torch.tensor(snaps, dtype=torch.int32))
    bases = torch.tensor([c[0] for c in clips for _ in range(2)])
    details = torch.tensor([d for d in ds for _ in range(2)])
    plan = mem.Plan(n, info, bases, torch.tensor(snaps), torch.zeros(6, dtype=torch.long), details, torch.ones(6, dtype=torch.long), sec)
    p = 700
    ptok, level, vidx, group = plan.rows(torch.arange(6), p, SP)
    for s in range(6):
        states = list(kernels.flash_reference(rows[s // 2], ks[s // 2]))[snaps[s]]
        want = prompt(states, snaps[s], int(bases[s]), sec, ds[s // 2], s)
        assert plan.plen[s] == len(want)
        got = [(int(l), int(v)) if l else int(t) for t, l, v in zip(ptok[s], level[s], vidx[s])]
        assert got[:len(want)] == want
        assert (group[s, :len(want)] == 0).all() and (group[s, len(want):] == -2).all() and set(got[len(want):]) == {SP.pad}


def test_other_layouts():
    sec = torch.arange(40) + 3600
    n, info = torch.tensor([5, 5, 5]), torch.zeros(3, kernels.KMAX, 4, dtype=torch.int32)
    plan = mem.Plan(n, info, torch.tensor([10, 10, 10]), torch.tensor([20, 20, 2]), torch.tensor([mem.RECENT, mem.NONE, mem.RECENT]), torch.tensor([8, 8, 8]), torch.tensor([4, 4, 4]), sec)
    assert plan.nd.tolist() == [3, 0, 2] and plan.plen.tolist() == [1 + 36 * 4, 1, 1 + 36 * 3]
    assert plan.dframe[0, :3].tolist() == [27, 28, 29] and plan.nframe[0] == 30 and plan.dframe[2, :2].tolist() == [10, 11]
    ptok, level, vidx, group = plan.rows(torch.tensor([1]), 8, SP)
    assert ptok[0].tolist() == [SP.bos] + [SP.pad] * 7 and group[0].tolist() == [0] + [-2] * 7


def test_assemble():
    fine, syn, emb = torch.randn(64, 6), torch.randn(24, 6), torch.randn(9, 6)
    ptok, level, vidx = torch.tensor([[1, 2, 2]]), torch.tensor([[0, 1, 2]]), torch.tensor([[0, 63, 20]])
    x = mem.assemble(ptok, level, vidx, fine, syn, emb)
    assert torch.equal(x[0], torch.stack((emb[1], fine[63], syn[20])))

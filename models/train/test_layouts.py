import numpy as np
import pytest
import torch

import kernels
import layouts as L
import memory as mem
import modules
from test_memory import SP


def view(t=300, seed=0, snap=None):
    """A stream of t frames with clusters of its first snap + 1, segments, clips and some evidence."""
    r = np.random.default_rng(seed)
    snap = t - 1 if snap is None else snap

    def cuts(k):
        at = np.sort(r.choice(np.arange(1, snap + 1), min(k, snap), replace=False)) if snap else np.zeros(0, np.int64)
        lo = np.concatenate(([0], at))
        n = np.diff(np.concatenate((lo, [snap + 1])))
        return np.stack((lo, n, lo + n // 2), 1)

    ev = np.zeros((6, 8, 2), np.int64)
    for k in range(4):
        lo = np.sort(r.integers(0, snap + 1, k + 1))
        ev[k, :k + 1] = np.stack((lo, np.minimum(lo + r.integers(1, 30, k + 1), snap + 1)), 1)
    seg = cuts(40)
    return L.View(snap, cuts(20), cuts(90), ev, np.array([1, 2, -3, 4, 0, 0]), 7, (snap + 1) // 8, 8, 3, seg[:, 0] + seg[:, 1], focus=np.array([0, 3]),
                  scores=r.random((2, snap + 1)), clip_scores=r.random((2, (snap + 1) // 8)), seg_scores=r.random((2, len(seg))))


@pytest.mark.parametrize("snap", (0, 1, 7, 40, 1500))
@pytest.mark.parametrize("name", L.FAMILIES)
def test_every_family_keeps_its_budget(name, snap):
    for seed in range(12):
        r = np.random.default_rng(seed)
        v = view(snap + 1, seed)
        if seed % 3 == 0:
            v.scores = v.clip_scores = v.seg_scores = None
        budget = int(r.choice(L.BUDGETS))
        e, keep = L.build(name, v, r, budget)
        if name not in ("flash", "recent"):
            assert L.size(e) <= budget
        assert L.size(e) + L.HEAD * len(e) <= L.LONGEST and keep.shape == (6,)
        learned = e[:, 1] > 3
        assert (e[:, 2] >= 0).all() and (e[:, 3] > e[:, 2]).all() and (e[:, 3] <= snap + 1).all()
        assert ((e[:, 1] == 0) == (e[:, 0] != L.SEGMENT)).all()
        assert (e[learned, 4] >= 3).all() and (e[~learned, 4] == 0).all()
        if name != "nothing":
            newest = e[e[:, 0] == L.NEWEST]
            assert len(newest) == 1 and newest[0, 2] == snap
        if name not in L.SELECTING:
            assert keep.all()


def test_a_selection_shows_what_the_questions_rest_on():
    hits = 0
    for seed in range(40):
        r, v = np.random.default_rng(seed), view(2000, seed)
        v.scores = None
        e, keep = L.build("selected", v, r, 1024)
        assert keep[4] and keep[5]  # nothing to show
        hits += keep[0]
    assert hits > 25


def test_shows():
    v = view(100)
    v.ev[:] = 0
    v.ev[0, :1], v.ev[1, :2], v.ev[2, :2], v.ev[3, :1] = [[10, 12]], [[10, 20], [50, 60]], [[10, 20], [50, 60]], [[90, 95]]
    v.evn = np.array([1, 2, -2, 1, 0, 0])
    e = np.concatenate((L.entries(1, 5, 14), L.entries(1, np.array([91, 92, 93]))))
    assert L.shows(v, e).tolist() == [True, False, True, False, True, True]  # three frames are too few


def test_doubling_covers_all():
    for n in (1, 5, 16, 17, 1000, 7190):
        c = L.doubling(view(10), 16, n)
        assert c[0, 0] == 0 and (c[1:, 0] == (c[:, 0] + c[:, 1])[:-1]).all() and c[-1, 0] + c[-1, 1] == n
        assert len(c) <= 18 or n > 7200
    assert len(L.doubling(view(10), 16, 0)) == 0


def test_rows_of_any_layout():
    """Shown and Rows against the layout in plain words."""
    torch.manual_seed(0)
    d, counts = 6, [50, 90]
    f = sum(counts) + 4
    fine = torch.randn(f, 32, d)
    pooled = modules.pooled(fine)
    clip_of = torch.tensor([0] * 50 + [1] * 90 + [2] * 4)
    rows = mem.Rows(fine, pooled, clip_of, 3)
    sec, embed, learned = torch.randint(0, 86400, (f,)), torch.randn(300, d), torch.randn(5 * 8, d)
    tables, base = [], [0, 50, 50, 0]
    r = np.random.default_rng(1)
    tables.append(L.build("pyramid", view(50, 1), r, 512)[0])
    tables.append(L.by_time(L.entries(2, 3, 40), L.entries(3, 0, 90), L.entries(L.SUMMARY, 8, 16, 4), L.entries(L.BRIDGED, 20, number=2), L.entries(0, 89)))
    tables.append(np.zeros((0, 5), np.int64))
    tables.append(L.build("star", view(50, 2), r, 256)[0])
    shown = mem.Shown(tables, base, torch.device("cpu"))
    sel = torch.tensor([3, 1, 2, 0])
    p = int(shown.length.max()) + 3
    number = torch.from_numpy(shown.host[sel][..., 4])
    ptok, level, row, lo, hi, num, group = shown.rows(sel, p, SP, sec, number)
    x = rows.assemble(ptok, level, row, lo, hi, num, embed, learned)
    for i, s in enumerate(sel.tolist()):
        want = [embed[SP.bos]]
        for role, lv, a, b, k in tables[s].tolist():
            a, b = a + base[s], b + base[s]
            t = int(sec[a])
            want += [embed[(SP.segment, SP.detail, SP.newest)[role]], *(embed[100 + v] for v in (t // 3600, t // 60 % 60, t % 60))]
            if lv == 0:
                want += list(fine[a])
            elif lv < 4:
                m = fine[a:b].mean(0)
                m = m.view(2, 2, 4, 2, d).mean((1, 3)).view(8, d)
                if lv > 1:
                    m = m.view(2, 2, 2, d).mean((0, 2))
                want += list(m if lv < 3 else m.mean(0, keepdim=True))
            else:
                want += list(learned[k * 8:k * 8 + 8])
        assert shown.plen[s] == len(want)
        torch.testing.assert_close(x[i, :len(want)], torch.stack(want), rtol=1e-4, atol=1e-5)
        assert (group[i, :len(want)] == 0).all() and (group[i, len(want):] == -2).all()


def test_flash_is_the_standard_layout():
    """The entries of layouts.flash make the prompt that Plan makes."""
    g = torch.Generator().manual_seed(3)
    d, t, f = 6, 200, 200
    fine = torch.randn(f, 32, d, generator=g).cumsum(0)
    pooled = modules.pooled(fine)
    syn = pooled[:, :8].reshape(f, 8 * d).contiguous()
    sec = torch.randint(0, 86400, (f,), generator=g)
    n, info, cent = kernels.flash(syn, torch.tensor([[0, t, 24, 0, 1]], dtype=torch.int32), torch.tensor([t - 1], dtype=torch.int32))
    plan = mem.Plan(n, info, torch.tensor([0]), torch.tensor([t - 1]), torch.tensor([mem.FLASH]), torch.tensor([5]), torch.tensor([1]), sec)
    v = view(t)
    v.small = info[0, :int(n[0]), :3].numpy().astype(np.int64)
    shown = mem.Shown([L.flash(v, None, 0, details=5)], [0], torch.device("cpu"))
    p, embed = 600, torch.randn(300, d, generator=g)
    ptok, level, vidx, group = plan.rows(torch.tensor([0]), p, SP)
    want = mem.assemble(ptok, level, vidx, fine.view(-1, d), cent.view(-1, d), embed)
    number = torch.zeros(1, shown.host.shape[1], dtype=torch.long)
    ptok2, level2, row, lo, hi, num, group2 = shown.rows(torch.tensor([0]), p, SP, sec, number)
    got = mem.Rows(fine, pooled, torch.zeros(f, dtype=torch.long), 1).assemble(ptok2, level2, row, lo, hi, num, embed)
    assert plan.plen[0] == shown.plen[0] and torch.equal(group, group2)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_sums_keep_a_single_frame():
    """An hour in, a frame's rows out of the sums are still its own."""
    torch.manual_seed(1)
    pooled = 3 + torch.randn(7200, 11, 8)
    rows = mem.Rows(torch.zeros(7200, 32, 8), pooled, torch.zeros(7200, dtype=torch.long), 1)
    lo = torch.tensor([[7100]])
    got = rows.spans(torch.ones_like(lo), torch.arange(8)[None], lo, lo + 1)
    assert (got - pooled[7100, :8]).abs().max() < 2e-3

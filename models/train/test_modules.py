import numpy as np
import torch

import memory_golden
import modules


def tiny():
    torch.manual_seed(0)
    m = modules.Memory(modules.TINY).eval()
    with torch.no_grad():
        for p in m.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return m


def test_starts_as_the_mean():
    """Before it is trained, a summary and a segment's memory are the mean of the frames' rows: what the decoder can read."""
    m, x = modules.Memory(modules.TINY), torch.randn(2, 8, 8, 96)
    d = torch.randn(2, 3, 96)
    h, i = m.stream.clip(torch.randn(2, 8, 96), torch.tensor([True, False]), d, d, x, torch.tensor([8, 5]), torch.randn(96))
    torch.testing.assert_close(h[0], x[0].mean(0))
    torch.testing.assert_close(h[1], x[1, :5].mean(0))
    assert torch.allclose(i.norm(dim=-1), torch.ones(2), atol=1e-5)
    mem, v = m.bridge.segment(x, torch.tensor([8, 3]), torch.zeros(2, 8, 96))
    torch.testing.assert_close(mem[1], x[1, :3].mean(0))
    torch.testing.assert_close(v, x)


@torch.no_grad()
def test_gaps_make_no_difference():
    """Sequences of different lengths side by side give what each gives alone."""
    m = tiny()
    x, before, d, seg = torch.randn(3, 8, 8, 96), torch.randn(3, 8, 96), torch.randn(3, 3, 96), torch.randn(96)
    has, count = torch.tensor([False, True, True]), torch.tensor([8, 8, 3])
    h, ind = m.stream.clip(before, has, d, d, x, count, seg)
    q = m.stream.query(x[:, 0], torch.tensor([8, 2, 5]), before, has)
    mem, v = m.bridge.segment(x, count, before)
    for i in range(3):
        n, k = int(count[i]), (8, 2, 5)[i]
        hi, ii = m.stream.clip(before[i:i + 1], has[i:i + 1], d[i:i + 1], d[i:i + 1], x[i:i + 1, :n], count[i:i + 1], seg)
        torch.testing.assert_close(h[i], hi[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ind[i], ii[0], rtol=1e-4, atol=1e-5)
        one = m.stream.query(x[i:i + 1, 0, :k], torch.tensor([k]), before[i:i + 1] if has[i] else None, has[i:i + 1])
        torch.testing.assert_close(q[i], one[0], rtol=1e-4, atol=1e-5)
        mi, vi = m.bridge.segment(x[i:i + 1, :n], count[i:i + 1], before[i:i + 1])
        torch.testing.assert_close(mem[i], mi[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(v[i, :n], vi[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_stream_looks_only_back():
    m, x, d, seg = tiny(), torch.randn(1, 8, 8, 96), torch.randn(1, 3, 96), torch.randn(96)
    zero, no, n = torch.zeros(1, 8, 96), torch.tensor([False]), torch.tensor([8])
    a = list(memory_golden.clips(m, x[0], [4, 4], d[0], d.expand(2, 3, 96), seg))
    y = x.clone()
    y[:, 5] += 1
    b = list(memory_golden.clips(m, y[0], [4, 4], d[0], d.expand(2, 3, 96), seg))
    assert torch.equal(a[0][0], b[0][0]) and not torch.equal(a[0][1], b[0][1])


def test_thinned():
    assert modules.Bridge.thinned(3) == [0, 1, 2] and modules.Bridge.thinned(13) == [0, 2, 4, 5, 7, 8, 10, 12]
    for n in range(1, 100):
        t = modules.Bridge.thinned(n)
        assert len(t) == min(n, 8) and len(set(t)) == len(t) and max(t) < n


@torch.no_grad()
def test_pieces_are_the_recurrence():
    """Trainer.rolled over whole streams, all streams at once, is the recurrence of each alone."""
    import types

    import tune

    m = tiny()
    s = tune.Streams()
    s.base, s.counts = np.array([0, 40]), np.array([40, 25])
    s.one = torch.randn(65, 8, 96)
    s.t = {"sec": torch.randint(0, 86400, (65,))}
    s.clip0 = np.array([0, 5, 8])
    s.clip_lo, s.clip_first = torch.tensor([0, 8, 16, 24, 32, 40, 48, 56]), torch.tensor([0] * 5 + [5] * 3)
    tr = types.SimpleNamespace(size={"depth": 3}, model=types.SimpleNamespace(c=types.SimpleNamespace(width=96)), dev=torch.device("cpu"), dtype=torch.float32,
                               rng=np.random.default_rng(0), learned=m, autocast=torch.no_grad, sp=types.SimpleNamespace(segment=3, pairs=torch.arange(100) + 10))
    words = torch.randn(120, 96)
    tr.words = lambda: words
    for n in ("clock", "clip_rows", "summarise", "cache_of", "segmented", "rolled"):
        setattr(tr, n, types.MethodType(getattr(tune.Tuner, n), tr))
    s.host, s.frame_clip = {"clip_of": np.zeros(0, int)}, np.zeros(65, int)
    tr.segmented(s)
    tr.rolled(s, 1 << 20)
    for c, (b, k) in enumerate(((0, 5), (40, 3))):
        at = tr.clock(s.t["sec"][s.clip_lo[s.clip0[c]:s.clip0[c + 1]]])
        h, ind = memory_golden.clips(m, s.one[b:b + 8 * k], [8] * k, at[0], at, words[3])
        torch.testing.assert_close(s.summary[s.clip0[c]:s.clip0[c + 1]], h, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(s.clip_ind[s.clip0[c]:s.clip0[c + 1]], ind, rtol=1e-4, atol=1e-5)
        sizes = np.diff(np.concatenate(([0], s.seg_ends[c]))).tolist()
        mem, _, rec = memory_golden.segments(m, s.one[b:b + s.counts[c]], sizes)
        torch.testing.assert_close(s.memory[s.seg0[c]:s.seg0[c + 1]], mem, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(s.recalled[s.seg0[c]:s.seg0[c + 1]], rec, rtol=1e-4, atol=1e-5)
    tr.rolled(s)  # in pieces: as good as the whole where a piece begins with the stream
    assert torch.isfinite(s.summary).all()

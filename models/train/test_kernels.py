import numpy as np
import torch

import kernels


def clip_rows(t, dim, seed):
    g = torch.Generator().manual_seed(seed)
    steps = torch.randn(t, dim, generator=g) * (torch.rand(t, 1, generator=g) < 0.2) + 0.05 * torch.randn(t, dim, generator=g)
    return steps.cumsum(0).contiguous()


def test_flash_matches_reference():
    dim, sizes, ks = 96, [150, 7, 90, 1], [64, 4, 5, 64]
    rows = [clip_rows(t, dim, i) for i, t in enumerate(sizes)]
    snaps, clips, base = [], [], 0
    for t, k in zip(sizes, ks):
        at = sorted({0, t // 3, t // 2, t - 1}) + [t - 1]
        clips.append([base, t, k, len(snaps), len(at)])
        snaps += at
        base += t
    n, info, cent = kernels.flash(torch.cat(rows), torch.tensor(clips, dtype=torch.int32), torch.tensor(snaps, dtype=torch.int32), threads=2)
    for (b, t, k, s0, sn), r in zip(clips, rows):
        states = list(kernels.flash_reference(r, k))
        for s in range(s0, s0 + sn):
            want = states[snaps[s]]
            assert n[s] == len(want)
            for j, (first, frames, ex, c) in enumerate(want):
                assert info[s, j, :3].tolist() == [first, frames, ex]
                torch.testing.assert_close(cent[s, j], c, rtol=1e-4, atol=1e-4)


def prim(shape, cx, cy, hx, hy, rgb, a=1.0, em=0.0, soft=0.0, ang=0.0, rad=0.0):
    return [shape, cx, cy, hx, hy, np.cos(ang), np.sin(ang), rad, *rgb, a, em, soft, 0, 0]


def slow(prims, ss=4):
    """float64, ss x ss samples a pixel with a hard edge: what the kernel approximates."""
    h, w = kernels.H * ss, kernels.W * ss
    y, x = np.meshgrid((np.arange(h) + .5) * 360 / h, (np.arange(w) + .5) * 640 / w, indexing="ij")
    c = np.zeros((h, w, 3))
    for p in prims:
        dx, dy = x - p[1], y - p[2]
        lx, ly = dx * p[5] + dy * p[6], dy * p[5] - dx * p[6]
        if p[0] == 1:
            inside = (lx / p[3]) ** 2 + (ly / p[4]) ** 2 < 1
        elif p[0] == 2:
            inside = (ly < p[4]) & (abs(lx) * 2 * p[4] < p[3] * (ly + p[4]))
        else:
            inside = (abs(lx) < p[3]) & (abs(ly) < p[4])
        k = inside[..., None] * p[11]
        c = c * (1 - k) + np.array(p[8:11]) * k
    return c.reshape(kernels.H, ss, kernels.W, ss, 3).mean((1, 3)).transpose(2, 0, 1)


def test_render_matches_supersampling():
    prims = [prim(0, 320, 180, 320, 180, (.2, .3, .4)), prim(1, 100, 80, 30, 12, (.9, .1, .1), .7), prim(2, 300, 200, 60, 40, (.1, .8, .2)),
             prim(0, 500, 250, 50, 20, (.9, .9, 0), ang=.5), prim(1, 102.3, 81.1, 4, 4, (0, 0, 1))]
    frame = np.zeros((1, 24), np.float32)
    frame[0, 3:6] = 1
    meta = torch.tensor([[0, 2, 2, 3]], dtype=torch.int32)
    aug = torch.tensor([[1, 1, 1, 0, 1, 0, 0, 0]], dtype=torch.float32)
    got = kernels.render(torch.tensor(prims, dtype=torch.float32), torch.from_numpy(frame), meta, aug)[0].numpy()
    want = slow(prims)
    assert np.abs(got - want).mean() < 2e-3
    assert (np.abs(got - want) > 0.12).mean() < 2e-3


def test_light_order_and_noise():
    prims = [prim(0, 320, 180, 320, 180, (.5, .5, .5)), prim(0, 100, 100, 40, 40, (1, 1, 1), em=1)]
    frame = np.zeros((2, 24), np.float32)
    frame[:, 3:6] = .5
    frame[1, 6:10] = [.5, 1, 0, 0]
    frame[1, 10] = .05
    meta = torch.tensor([[0, 0, 0, 2]] * 2, dtype=torch.int32)
    aug = torch.tensor([[1, 1, 1, 0, 1, 1, 3, 0]] * 2, dtype=torch.float32)
    got = kernels.render(torch.tensor(prims, dtype=torch.float32), torch.from_numpy(frame), meta, aug)
    assert torch.allclose(got[0, :, 100, 200], torch.full((3,), .25), atol=1e-5)
    assert torch.allclose(got[0, :, 35, 40], torch.ones(3), atol=1e-5)  # emissive: no gain
    flat = got[1, :, 80:, 100:].flatten(1)
    assert abs(flat[0].mean() - .625) < .01 and abs(flat[1].mean() - .125) < .01 and abs(flat.std(1).mean() - .05) < .005


def test_degrade_keeps_a_clean_picture():
    x = torch.rand(2, 3, 8, 16).repeat_interleave(16, 2).repeat_interleave(16, 3)
    y = kernels.degrade(x, torch.zeros(2), torch.tensor([0.0, 0.02]), *kernels.roll(1, 3, "cpu"))
    assert (y - (x * 2 - 1)).abs()[0].max() < .02
    assert (y - (x * 2 - 1)).abs()[1].mean() < .02

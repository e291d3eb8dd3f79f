"""What must hold on the training machine before it trains: the kernels compute what their references compute, flex attention what dense
masks do; and how fast the parts are. Part of the smoke run."""

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

import batches
import kernels
import model as M


def timed(fn, n=5):
    fn()
    torch.cuda.synchronize()
    t = time.time()
    for _ in range(n):
        fn()
    torch.cuda.synchronize()
    return (time.time() - t) / n


def flash(tr):
    g = torch.Generator().manual_seed(1)
    dim, sizes, ks, most = 3072, [150, 90, 20], [100, 5, 64], 1024
    rows = [(torch.randn(t, dim, generator=g) * (torch.rand(t, 1, generator=g) < .3) + .1 * torch.randn(t, dim, generator=g)).cumsum(0) for t in sizes]
    clips, snaps, base = [], [], 0
    for t, k in zip(sizes, ks):
        clips.append([base, t, k, len(snaps), 2])
        snaps += [t // 2, t - 1]
        base += t
    d = tr.dev
    n, info, cent = kernels.flash(torch.cat(rows).contiguous().to(d), torch.tensor(clips, dtype=torch.int32, device=d), torch.tensor(snaps, dtype=torch.int32, device=d), most=most)
    bad, worst = 0, 0.0
    for i, r in enumerate(rows):
        states = list(kernels.flash_reference(r, ks[i]))
        for s in (2 * i, 2 * i + 1):
            want = states[snaps[s]]
            got = info[s, :int(n[s]), :3].tolist()
            bad += [list(c[:3]) for c in want] != got
            if len(want) == int(n[s]):
                worst = max(worst, float((cent[s, :len(want)].cpu() - torch.stack([c[3] for c in want])).abs().max()))
    tr.say(f"check flash: {bad} of {len(snaps)} snapshots differ, centroids off by at most {worst:.2e}")


def attention(tr):
    torch.manual_seed(0)
    b, p, q, h, d = 3, 256, 384, 6, 64
    pg = torch.zeros(b, p, dtype=torch.int32, device=tr.dev)
    pg[0, 200:] = -2
    pg[1, 100:] = 1
    qg = torch.zeros(b, q, dtype=torch.int32, device=tr.dev)
    qg[1, 150:] = 1
    doc = torch.stack([(torch.arange(q) + k) // 47 for k in (0, 13, 20)]).int().to(tr.dev)
    x = torch.randn(3, b, h, p + q, d, device=tr.dev)
    up = torch.randn(b, h, p + q, d, device=tr.dev)
    out = []
    for flex in (True, False):
        mask = M.Attend(b, p, q, tr.dev, flex).set(pg, qg, doc)
        y = x.to(torch.bfloat16 if flex else torch.float32).requires_grad_()
        if flex:
            o = torch.compile(flex_attention, dynamic=False)(y[0], y[1], y[2], block_mask=mask)
        else:
            o = F.scaled_dot_product_attention(y[0], y[1], y[2], attn_mask=mask)
        g, = torch.autograd.grad(o, y, up.to(o.dtype))
        out.append((o.float(), g.float()))
    (o1, g1), (o2, g2) = out
    e = [float((u - v).norm() / v.norm()) for u, v in ((o1, o2), (g1, g2))]
    tr.say(f"check flex attention: output off by {e[0]:.1e}, gradients by {e[1]:.1e} (bf16)")
    if not max(e) < 3e-2:
        raise ValueError("flex attention differs from dense masks")


def render(tr, t):
    n = 8
    x = kernels.render(t["prims"], t["frames"][:n], t["meta"][:n], t["aug"][:n])
    try:
        y = kernels.render(*(v.cpu() for v in (t["prims"], t["frames"][:n], t["meta"][:n], t["aug"][:n])), threads=8)
        e = (x.cpu() - y).abs()
        tr.say(f"check render: GPU and CPU differ by {float(e.mean()):.1e} in the mean, {float(e.max()):.1e} at most")
    except Exception as e:
        tr.say("check render: no CPU build here:", repr(e)[:200])
    tr.say(f"check render: mean {float(x.mean()):.3f} std {float(x.std()):.3f} finite {bool(torch.isfinite(x).all())}")


def run(tr):
    flash(tr)
    if tr.flex:
        try:
            attention(tr)
        except Exception as e:
            tr.say("check flex attention FAILED, going on with dense masks:", repr(e)[:1500])
            tr.flex = False
    return tr


def speed(tr, pool):
    """Frames a second of the parts, on 2048 real frames."""
    n = 2048
    t = tr.to_device({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in batches.build_frames(pool, tr.types, np.random.default_rng(0), n // 4).items()})
    render(tr, t)
    r = timed(lambda: kernels.render(t["prims"], t["frames"], t["meta"], t["aug"]))
    d = timed(lambda: tr.draw(t))
    px = tr.draw(t)
    with torch.no_grad():
        e = timed(lambda: tr.encode(px))
    tr.say(f"speed: render {n / r:.0f} frames/s, with codec {n / d:.0f}, encode {n / e:.0f}")
    c, f = 40, 600
    syn = torch.randn(c * f, 3072, device=tr.dev)
    clips = torch.tensor([[i * f, f, 64, i * 10, 10] for i in range(c)], dtype=torch.int32, device=tr.dev)
    snaps = torch.arange(59, f, 60, device=tr.dev).int().repeat(c).contiguous()
    k = timed(lambda: kernels.flash(syn, clips, snaps), 2)
    tr.say(f"speed: flash {k * 1e3:.1f} ms for {c} streams of {f} frames = {k / f * 1e6:.1f} us a step")

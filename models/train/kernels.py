"""The two kernels of kernels.cu on torch tensors: drawing pictures and running the flash memory, on CUDA (NVRTC, through CuPy or
torch's own loader) or, for tests, on the CPU (gcc). And the plain reference of flash that both are checked against."""

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
W, H = 256, 128
TILES = (W // 32) * (H // 8)
KMAX = 64  # clusters of a standard memory; the kernel takes up to 1024


def source():
    with open(os.path.join(HERE, "kernels.cu")) as f:
        return f.read()


@functools.cache
def _cpu():
    src = source()
    tag = hashlib.sha256(src.encode()).hexdigest()[:16]
    lib = os.path.join(tempfile.gettempdir(), f"afterimage-kernels-{tag}.so")
    if not os.path.exists(lib):
        tmp = f"{lib}.{os.getpid()}"
        subprocess.run(["gcc", "-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-fopenmp", "-shared", "-fPIC",
                        "-DEMULATE", "-x", "c", os.path.join(HERE, "kernels.cu"), "-o", tmp, "-lm"], check=True)
        os.replace(tmp, lib)
    return ctypes.CDLL(lib)


@functools.cache
def _cuda():
    """Returns launch(name, grid, block, args); args are tensors and ints."""
    src = source()
    try:
        import cupy

        module = cupy.RawModule(code=src, options=("--std=c++17", "--use_fast_math"), backend="nvrtc")
        fns = {n: module.get_function(n) for n in ("render", "flash")}

        def launch(name, grid, block, args):
            flat = [np.uint64(a.data_ptr()) if torch.is_tensor(a) else np.int32(a) for a in args]
            with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
                fns[name](grid, block, tuple(flat))

        return launch, "cupy"
    except Exception as e:  # the image may change; torch can do the same
        print(f"kernels: cupy failed ({e!r}), using torch's NVRTC", flush=True)
        fns = {n: torch.cuda._compile_kernel(src, n) for n in ("render", "flash")}

        def launch(name, grid, block, args):
            fns[name](grid=(*grid, 1, 1)[:3], block=(*block, 1, 1)[:3], args=list(args))

        return launch, "torch"


def _check(t, dtype, device):
    assert t.dtype == dtype and t.is_contiguous() and t.device.type == device.type, (t.dtype, t.device, t.is_contiguous())
    return t


def render(prims, frames, meta, aug, out=None, threads=1):
    """prims [N,16], frames [F,24] f32; meta [F,4] i32; aug [F,8] f32 (see kernels.cu). Returns [F,3,H,W] f32 in 0..1."""
    n, dev = frames.shape[0], frames.device
    for t, d in ((prims, torch.float32), (frames, torch.float32), (meta, torch.int32), (aug, torch.float32)):
        _check(t, d, dev)
    assert n <= 65535 and meta.shape == (n, 4) and aug.shape == (n, 8)
    if out is None:
        out = torch.empty(n, 3, H, W, device=dev)
    if n == 0:
        return out
    if dev.type == "cuda":
        _cuda()[0]("render", (TILES, n), (256,), (prims, frames, meta, aug, out))
    else:
        _cpu().render_all(*(ctypes.c_void_p(t.data_ptr()) for t in (prims, frames, meta, aug, out)), n, threads)
    return out


def flash(syn, clips, snaps, threads=1, rows=8, most=KMAX, centroids=True):
    """Runs the flash strategy over every clip of a batch. syn [F,dim] f32: `rows` rows a frame; clips [C,5] i32: first frame, frames, K <= most, first snapshot,
    snapshots; snaps [S] i32 ascending within a clip. Returns n [S] i32, info [S,most,4] i32 (first frame, frames, exemplar, 0; frames
    counted within the clip), centroids [S,most,dim] f32 (rows from n on are zero) if they are wanted."""
    dev, dim, c, s = syn.device, syn.shape[1], clips.shape[0], snaps.shape[0]
    for t, d in ((syn, torch.float32), (clips, torch.int32), (snaps, torch.int32)):
        _check(t, d, dev)
    assert dim % rows == 0
    scratch = torch.empty(c * (most + 1) * dim, device=dev)
    n = torch.zeros(s, dtype=torch.int32, device=dev)
    info = torch.zeros(s, most, 4, dtype=torch.int32, device=dev)
    cent = torch.zeros(s, most, dim if centroids else 0, device=dev)
    args = (syn, clips, snaps, scratch, n, info, cent)
    if dev.type == "cuda":
        _cuda()[0]("flash", (c,), (512,), (*args, dim, rows, most, int(centroids)))
    else:
        _cpu().flash_all(*(ctypes.c_void_p(t.data_ptr()) for t in args), dim, rows, most, int(centroids), c, threads)
    return n, info, cent


def flash_reference(rows, K, parts=8):
    """The strategy in plain words, one clip. rows [T,dim] f32 on the CPU. Yields after every frame the list of clusters
    (first, frames, exemplar, centroid)."""
    cl = []

    def gap(a, b):  # squared distance of the mean rows, times a constant
        return float(((a - b).view(parts, -1).sum(0) ** 2).sum())

    for t in range(rows.shape[0]):
        cl.append((t, 1, t, rows[t].clone()))
        if len(cl) > K:
            cost = [a[1] * b[1] / (a[1] + b[1]) * gap(a[3], b[3]) for a, b in zip(cl, cl[1:])]
            i = int(np.argmin(cost))  # the earliest of equals
            a, b = cl[i], cl[i + 1]
            c = (a[1] * a[3] + b[1] * b[3]) / (a[1] + b[1])
            ea, eb = float(((rows[a[2]] - c) ** 2).sum()), float(((rows[b[2]] - c) ** 2).sum())
            cl[i:i + 2] = [(a[0], a[1] + b[1], b[2] if eb < ea * (1 - 1e-5) else a[2], c)]  # two halves are equally near
        yield list(cl)


def _codec_basis(device):
    k = torch.arange(4, device=device, dtype=torch.float32)
    d = torch.cos((k[None, :] + 0.5) * k[:, None] * torch.pi / 4) * (0.5 ** 0.5)
    d[0] *= 0.5 ** 0.5
    return torch.einsum("ij,kl->ikjl", d, d).reshape(16, 16)  # [coefficient, pixel]


def degrade(x, blur, q, iy, ix, jy, jx):
    """What a codec and a lens do: x [F,3,H,W] 0..1; blur [F] 0..1 weight of a 3x3 binomial blur; q [F] step of a 4x4 DCT's
    quantisation in luma and, doubled, in chroma; iy, ix roll the picture under the block grid, jy, jx roll it back (see roll).
    Returns the model's input in -1..1."""
    f = x.shape[0]
    b = blur.view(f, 1, 1, 1) * 0.25
    up, dn = torch.cat((x[:, :, :1], x[:, :, :-1]), 2), torch.cat((x[:, :, 1:], x[:, :, -1:]), 2)
    x = x + b * (up + dn - 2 * x)
    lf, rt = torch.cat((x[..., :1], x[..., :-1]), 3), torch.cat((x[..., 1:], x[..., -1:]), 3)
    x = x + b * (lf + rt - 2 * x)
    r, g, bl = x.unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * bl
    x = torch.stack((y, bl - y, r - y), 1)[:, :, iy[:, None], ix[None, :]]
    basis = _codec_basis(x.device)
    blocks = x.view(f, 3, H // 4, 4, W // 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(-1, 16)
    co = (blocks @ basis.t()).view(f, 3, -1, 16)
    step = (q.view(f, 1, 1, 1) * torch.tensor([1.0, 2.0, 2.0], device=x.device).view(1, 3, 1, 1)).clamp_min(1e-4)
    co = torch.sign(co) * torch.floor(co.abs() / step + 0.4) * step  # a codec's rounding leans to zero
    blocks = (co.view(-1, 16) @ basis).view(f, 3, H // 4, W // 4, 4, 4).permute(0, 1, 2, 4, 3, 5).reshape(f, 3, H, W)
    y, cb, cr = blocks[:, :, jy[:, None], jx[None, :]].unbind(1)
    r, bl = y + cr, y + cb
    g = (y - 0.299 * r - 0.114 * bl) / 0.587
    return torch.stack((r, g, bl), 1).clamp(0, 1) * 2 - 1


def roll(dy, dx, device):
    """The index tensors of degrade for a block grid moved by (dy, dx): tensors, so that no shift compiles anew."""
    y, x = torch.arange(H, device=device), torch.arange(W, device=device)
    return (y + dy) % H, (x + dx) % W, (y - dy) % H, (x - dx) % W

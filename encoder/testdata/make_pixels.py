"""Makes pixels.json beside this file: what the published processors make of pictures of many sizes. Run it only to change that.

torch==2.15.0 torchvision==0.29.2 transformers==5.17.0 pillow==12.3.0 numpy==2.4.6

Pillow 13 resizes down before across where the height shrinks more. What overshoots is cut to bytes between the two, so other bytes come out, up to
a few tens away at hard edges. Checkpoints were made with earlier ones, and torchvision goes across first too: so it is done here.

"slow" is the processor on Pillow, "fast" the one on torchvision that transformers takes by default now. The bytes are those of the resized picture,
recovered from the normalised values, which are checked to be those of the bytes: of slow the SHA-256 of all, of fast a sample. Pictures are not
written: picture() here and in processor_test.go make the same.
"""

import base64
import hashlib
import json
import math
import pathlib
import tempfile

import numpy as np
import PIL
import torch
from PIL import Image
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor
from torchvision.transforms.v2 import functional as tvF
from transformers import CLIPImageProcessor, LlavaImageProcessor, LlavaOnevisionVideoProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor
from transformers import SmolVLMImageProcessor, SmolVLMVideoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

HERE = pathlib.Path(__file__).parent
CLIP = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
HALF = dict(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
SIZES = [(1, 1), (8, 8), (1, 7), (9, 2), (100, 40), (41, 163), (333, 251), (640, 360), (480, 853), (1920, 1080)]
SAMPLE = 600
assert int(PIL.__version__.split(".")[0]) < 13


def picture(w, h, seed):
    """Noise, slopes and stripes, in squares: uint8 [h, w, 3]."""
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    i = ((y * w + x) * 3 + c + 7919 * seed).astype(np.uint64)
    noise = ((i * 2654435761) % 2**32 ^ (i * 40503 + 12345) % 2**32) * 2246822519 % 2**32 >> 24
    slope = (x * 255 // max(w - 1, 1) + 60 * c + y) % 256
    stripes = 255 * ((x // 2 + y + c) % 2)
    kind = (x // 16 + y // 16) % 3
    return np.where(kind == 0, noise, np.where(kind == 1, slope, stripes)).astype(np.uint8)


def to_bytes(v, image_mean, image_std):
    """Normalised values [..., 3, h, w] back to bytes [..., h, w, 3]."""
    v = np.asarray(v, np.float64)
    mean, std = (np.array(a).reshape(3, 1, 1) for a in (image_mean, image_std))
    out = (v * std + mean) * 255
    assert np.abs(out - out.round()).max() < 1e-3, np.abs(out - out.round()).max()
    return np.moveaxis(out.round().astype(np.uint8), -3, -1)


def unfold(rows, grid, patch, merge, pair):
    """Qwen2-VL's rows [units*gh*gw, 3*pair*patch*patch] to [units*pair, 3, gh*patch, gw*patch]."""
    t, gh, gw = (int(v) for v in grid)
    v = np.asarray(rows).reshape(t, gh // merge, gw // merge, merge, merge, 3, pair, patch, patch)
    return v.transpose(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(t * pair, 3, gh * patch, gw * patch)


families, report = [], {}


def family(name, model, files, target, norm, slow, fast, frames=1, sizes=SIZES):
    """slow and fast make of uint8 [frames, h, w, 3] normalised values [frames, 3, H, W]; slow None: there is no such processor."""
    cases = []
    families.append(dict(name=name, model=model, files=files, target=target, frames=frames, cases=cases))
    worst, off, far, total = 0, 0, 0, 0
    for w, h in sizes:
        pics = np.stack([picture(w, h, s) for s in range(frames)])
        one = dict(w=w, h=h)
        cases.append(one)
        try:
            f = to_bytes(fast(pics), **norm)
        except ValueError as e:
            assert "aspect ratio" in str(e)
            one["refused"] = True
            continue
        s = f if slow is None else to_bytes(slow(pics), **norm)
        assert s.shape == f.shape, (s.shape, f.shape)
        one["out"] = list(s.shape[1:3])
        if slow is not None:
            one["slow"] = hashlib.sha256(s.tobytes()).hexdigest()
        step = -(-s.size // SAMPLE) | 1
        one["fast"] = base64.b64encode(f.reshape(-1)[::step].tobytes()).decode()
        d = np.abs(s.astype(int) - f.astype(int))
        worst, off, far, total = max(worst, int(d.max())), off + int((d > 0).sum()), far + int((d > 1).sum()), total + d.size
    if slow is not None:
        print(f"{name}: slow and fast differ by at most {worst}, in {100 * off / total:.3f} % of {total} values, by more than 1 in {far}", flush=True)


def main():
    # SmolVLM2-256M and -500M as published, but for the fields that say nothing about pixels. From such a file transformers 5 takes size for a video's
    # frames too, and not video_sampling's, as 4.51 did: so it is done here.
    smol = dict(do_image_splitting=True, do_pad=True, do_resize=True, do_rescale=True, do_normalize=True, resample=1, rescale_factor=1 / 255,
                size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}, video_sampling={"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 512}},
                image_processor_type="SmolVLMImageProcessor", **HALF)
    small = dict(smol, size={"longest_edge": 101}, max_image_size={"longest_edge": 28}, image_processor_type="Idefics3ImageProcessorFast")

    def args(d, *less):
        return {k: v for k, v in d.items() if k not in ("image_processor_type", "video_processor_type", "video_sampling", *less)}

    def first(proc, **kw):
        return lambda pics: np.stack([np.asarray(proc([Image.fromarray(p)], return_tensors="np", **kw)["pixel_values"])[0, 0] for p in pics])

    def single(proc, **kw):
        return lambda pics: np.stack([np.asarray(proc([Image.fromarray(p)], return_tensors="np", **kw)["pixel_values"])[0] for p in pics])

    def video(proc, name, **kw):
        return lambda pics: np.asarray(proc([torch.tensor(pics).permute(0, 3, 1, 2)], return_tensors="pt", **kw)[name])[0]

    for name, model, c, image, patch in (("smolvlm", "smolvlm", smol, 512, 16), ("idefics3 small", "idefics3", small, 28, 14)):
        family(name, model, {"preprocessor_config.json": c}, dict(image=[image, image], patch=patch), HALF,
               first(Idefics3ImageProcessorPil(**args(c, "do_image_splitting")), do_image_splitting=False),
               first(SmolVLMImageProcessor(**args(c)), do_image_splitting=False))
    slow = first(Idefics3ImageProcessorPil(**args(smol, "do_image_splitting")), do_image_splitting=False)
    with tempfile.TemporaryDirectory() as d:
        (pathlib.Path(d) / "preprocessor_config.json").write_text(json.dumps(smol))
        fast = video(SmolVLMVideoProcessor.from_pretrained(d), "pixel_values")
    family("smolvlm video", "smolvlm", {"preprocessor_config.json": smol}, dict(image=[512, 512], patch=16), HALF, slow, fast, frames=2)
    c = {k: v for k, v in smol.items() if k not in ("do_image_splitting", "image_processor_type")} | {"video_processor_type": "SmolVLMVideoProcessor"}
    family("smolvlm video file", "smolvlm", {"video_preprocessor_config.json": c, "preprocessor_config.json": {"resample": 0}}, dict(image=[512, 512], patch=16),
           HALF, slow, fast, sizes=SIZES[:4])

    # Qwen2-VL as published, and with bounds that the sizes here meet.
    def still(proc):
        def f(pics):
            o = proc([Image.fromarray(pics[0])], return_tensors="np")
            v = unfold(o["pixel_values"], o["image_grid_thw"][0], 14, 2, 2)
            assert (v[0] == v[1]).all()
            return v[:1]
        return f

    for name, model, low, high in (("qwen2vl", "qwen2_vl", 56 * 56, 14 * 14 * 4 * 1280), ("qwen2.5vl bounds", "qwen2_5_vl", 20000, 90000)):
        c = dict(min_pixels=low, max_pixels=high, patch_size=14, temporal_patch_size=2, merge_size=2, image_processor_type="Qwen2VLImageProcessor", **CLIP)
        family(name, model, {"preprocessor_config.json": c}, dict(patch=14, merge=2, pair=2, pixels=high), CLIP,
               still(Qwen2VLImageProcessorPil(**args(c))), still(Qwen2VLImageProcessor(**args(c))), sizes=SIZES + [(1, 300), (60, 3000)])
    c = dict(size={"shortest_edge": 6272, "longest_edge": 50176}, patch_size=14, temporal_patch_size=2, merge_size=2, video_processor_type="Qwen2VLVideoProcessor", **CLIP)
    proc = Qwen2VLVideoProcessor(**args(c))

    def pairs(pics):
        o = proc([torch.tensor(pics).permute(0, 3, 1, 2)], return_tensors="np")
        return unfold(o["pixel_values_videos"], o["video_grid_thw"][0], 14, 2, 2)
    family("qwen2vl video", "qwen2_vl", {"processor_config.json": {"video_processor": c, "image_processor": {}}}, dict(patch=14, merge=2, pair=2), CLIP,
           None, pairs, frames=4)

    # Flash-VStream on Qwen2-VL: 256 squares of 28 at most, 128 at least, by Pillow's default, then squares of 56.
    def vstream_sizes(h, w):
        f, low, high = 28, 128 * 28 * 28, 4 * 224 * 224
        a, b = max(f, round(h / f) * f), max(f, round(w / f) * f)
        if a * b > high:
            k = math.sqrt(h * w / high)
            a, b = math.floor(h / k / f) * f, math.floor(w / k / f) * f
        elif a * b < low:
            k = math.sqrt(low / (h * w))
            a, b = math.ceil(h * k / f) * f, math.ceil(w * k / f) * f
        return (a, b), smart_resize(a, b, 56, 56 * 56, 12845056)

    def normal(a, mean, std):
        return ((a.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)

    def pil(p, a, b):
        return np.array(Image.fromarray(p).resize((b, a), Image.BICUBIC))

    def tv(p, a, b):
        return tvF.resize(torch.tensor(p).permute(2, 0, 1), [a, b], InterpolationMode.BICUBIC, antialias=True).permute(1, 2, 0).numpy()

    def twice(resize):
        def f(pics):
            (a, b), (c, d) = vstream_sizes(*pics.shape[1:3])
            return np.stack([normal(resize(resize(p, a, b), c, d), *CLIP.values()) for p in pics])
        return f
    c = dict(min_pixels=3136, max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2, image_processor_type="Qwen2VLImageProcessor", **CLIP)
    family("flash-vstream-qwen", "flash_vstream_qwen2_vl", {"preprocessor_config.json": c}, dict(patch=14, merge=2, pair=2), CLIP, twice(pil), twice(tv))

    # InternVL2's own code: Compose([Resize((448, 448), BICUBIC), ToTensor(), Normalize(ImageNet)]); its file says less than that.
    own = Compose([Resize((448, 448), InterpolationMode.BICUBIC), ToTensor(), Normalize(*IMAGENET.values())])
    c = dict(crop_size=448, do_center_crop=True, do_normalize=True, do_resize=True, feature_extractor_type="CLIPFeatureExtractor", resample=3, size=448, **IMAGENET)
    family("internvl2", "internvl_chat", {"preprocessor_config.json": c}, dict(image=[448, 448], patch=14), IMAGENET,
           lambda pics: np.stack([own(Image.fromarray(p)).numpy() for p in pics]),
           lambda pics: np.stack([normal(tv(p, 448, 448), *IMAGENET.values()) for p in pics]))

    # LLaVA-1.5, with and without pad, its older form, Flash-VStream-7b (no file), and a crop larger than what it is cut from.
    c = dict(crop_size={"height": 336, "width": 336}, size={"shortest_edge": 336}, do_center_crop=True, resample=3, rescale_factor=1 / 255,
             image_processor_type="CLIPImageProcessor", **CLIP)
    padded = dict(c, do_pad=True, image_processor_type="LlavaImageProcessorFast")
    t = dict(image=[336, 336], patch=14)
    family("llava", "llava", {"preprocessor_config.json": c}, t, CLIP, single(CLIPImageProcessorPil(**args(c))), single(CLIPImageProcessor(**args(c))))
    family("llava pad", "llava", {"preprocessor_config.json": padded}, t, CLIP, single(LlavaImageProcessorPil(**args(padded))),
           single(LlavaImageProcessor(**args(padded))))
    family("llava_llama pad", "llava_llama", {}, dict(t, aspect="pad"), CLIP, single(LlavaImageProcessorPil(**args(padded))),
           single(LlavaImageProcessor(**args(padded))))
    family("vstream", "vstream", {}, dict(image=[224, 224], patch=14, aspect="pad"), CLIP, single(CLIPImageProcessorPil()), single(CLIPImageProcessor()))
    c = dict(c, crop_size=35, size=21, resample=2, do_normalize=False)
    proc = single(CLIPImageProcessorPil(**dict(args(c), crop_size={"height": 35, "width": 35}, size={"shortest_edge": 21})))
    family("crop beyond", "llava", {"preprocessor_config.json": c}, dict(image=[35, 35], patch=7), dict(image_mean=[0] * 3, image_std=[1] * 3), proc, proc)

    # LLaVA-OneVision: a video's frames, which are as a still's overview.
    c = dict(do_convert_rgb=True, do_resize=True, resample=3, size={"height": 384, "width": 384}, video_processor_type="LlavaOnevisionVideoProcessor", **CLIP)
    family("onevision", "llava_onevision", {"video_preprocessor_config.json": c}, dict(image=[384, 384], patch=16), CLIP,
           first(LlavaOnevisionImageProcessorPil(**args(c, "do_convert_rgb"), image_grid_pinpoints=[[384, 384]])),
           video(LlavaOnevisionVideoProcessor(**args(c)), "pixel_values_videos"))

    (HERE / "pixels.json").write_text("[\n" + ",\n".join(json.dumps(f) for f in families) + "\n]\n")


if __name__ == "__main__":
    main()

"""Makes the tiny checkpoints and reference outputs beside this file. Seeded; run it only to change them.

torch==2.11.0 transformers==5.17.0 safetensors==0.8.0 numpy
"""

import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, InternVLVisionConfig, InternVLVisionModel, SiglipVisionConfig, SiglipVisionModel

HERE = pathlib.Path(__file__).parent
H, W, FRAMES = 23, 37, 5  # odd on purpose; one frame more than the encoder's batch


def area(src, dst):
    """[dst, src] weights of an exact area average along one side."""
    m = np.zeros((dst, src))
    for j in range(dst):
        a, b = j * src / dst, (j + 1) * src / dst
        for i in range(src):
            m[j, i] = max(0.0, min(b, i + 1) - max(a, i)) / (b - a)
    return m


def pixels(frames, h, w, mean, std):
    x = np.einsum("yi,xj,nijc->nyxc", area(H, h), area(W, w), frames.astype(np.float64)) / 255
    x = (x - np.array(mean)) / np.array(std)
    return torch.tensor(x).permute(0, 3, 1, 2).float()


def scramble(module, seed):
    """Random weights large enough that every part of the model matters to its output."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            p.copy_(torch.randn(p.shape, generator=g) * (0.3 if p.ndim > 1 else 0.2) + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


def save(name, config, tensors, golden):
    d = HERE / name
    (d / "golden").mkdir(parents=True, exist_ok=True)
    (d / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, d / "model.safetensors")
    save_file({k: v.float().contiguous() for k, v in golden.items()}, d / "golden" / "model.safetensors")


def main():
    frames = np.random.default_rng(5).integers(0, 256, (FRAMES, H, W, 3), dtype=np.uint8)
    (HERE / "frames.rgb").write_bytes(frames.tobytes())
    shape = dict(hidden_size=20, num_hidden_layers=3, num_attention_heads=2, intermediate_size=28, patch_size=4, image_size=12)

    m = SiglipVisionModel(SiglipVisionConfig(**shape, vision_use_head=False)).eval()
    scramble(m, 1)
    with torch.no_grad():
        out = m(pixels(frames, 12, 12, [0.5] * 3, [0.5] * 3)).last_hidden_state
    save("siglip", m.config.to_dict(), m.state_dict(), {"last": out})

    m = CLIPVisionModel(CLIPVisionConfig(**shape)).eval()
    scramble(m, 2)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    with torch.no_grad():
        out = m(pixels(frames, 12, 12, mean, std), output_hidden_states=True)
    save("clip", m.config.to_dict(), {"vision_model." + k.removeprefix("vision_model."): v for k, v in m.state_dict().items()},
         {"last": out.last_hidden_state[:, 1:], "penultimate": out.hidden_states[-2][:, 1:]})

    intern(frames, shape)
    vlm(frames)


def intern(frames, shape):
    m = InternVLVisionModel(InternVLVisionConfig(**shape, attention_bias=True)).eval()
    scramble(m, 4)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    with torch.no_grad():
        out = m(pixels(frames, 12, 12, mean, std)).last_hidden_state
    save("intern", m.config.to_dict(), m.state_dict(), {"last": out[:, 1:]})


class Layer(torch.nn.Module):
    def __init__(self, c, mlp, heads):
        super().__init__()
        nn = torch.nn
        self.heads = heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(c, 1e-6), nn.LayerNorm(c, 1e-6)
        self.self_attn = nn.ModuleDict({k: nn.Linear(c, c) for k in ("q_proj", "k_proj", "v_proj", "out_proj")})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(c, mlp), "fc2": nn.Linear(mlp, c)})

    def forward(self, x):
        n, s, c = x.shape
        h = self.layer_norm1(x)
        q, k, v = (self.self_attn[p](h).view(n, s, self.heads, -1).transpose(1, 2) for p in ("q_proj", "k_proj", "v_proj"))
        a = torch.softmax(q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5, -1) @ v
        x = x + self.self_attn["out_proj"](a.transpose(1, 2).reshape(n, s, c))
        h = torch.nn.functional.gelu(self.mlp["fc1"](self.layer_norm2(x)), approximate="tanh")
        return x + self.mlp["fc2"](h)


def vlm(frames):
    """The layout of the embedded default in miniature, written out: a picture that is not square, pool, projector, bf16 on disk."""
    c, mlp, heads, ps, h, w, dim = 24, 40, 3, 4, 16, 24, 20
    nn = torch.nn
    m = nn.ModuleDict({
        "embeddings": nn.ModuleDict({"patch_embedding": nn.Conv2d(3, c, ps, ps), "position_embedding": nn.Embedding(h * w // ps // ps, c)}),
        "layers": nn.ModuleList(Layer(c, mlp, heads) for _ in range(2)), "post_layernorm": nn.LayerNorm(c, 1e-6),
        "linear_1": nn.Linear(c, dim), "linear_2": nn.Linear(dim, dim)})
    scramble(m, 3)
    with torch.no_grad():
        for p in m.parameters():
            p.copy_(p.bfloat16().float())
        x = m["embeddings"]["patch_embedding"](pixels(frames, h, w, [0.5, 0.4, 0.6], [0.5, 0.25, 0.3])).flatten(2).transpose(1, 2)
        x = x + m["embeddings"]["position_embedding"].weight
        for layer in m["layers"]:
            x = layer(x)
        x = m["post_layernorm"](x)
        x = torch.nn.functional.avg_pool2d(x.transpose(1, 2).reshape(-1, c, h // ps, w // ps), 2).flatten(2).transpose(1, 2)
        x = m["linear_2"](torch.nn.functional.gelu(m["linear_1"](x)))
    names = {}
    for k, v in m.state_dict().items():
        k = "multi_modal_projector." + k if k.startswith("linear") else "vision_tower.vision_model." + k.replace("layers.", "encoder.layers.", 1)
        names[k] = v.bfloat16()
    config = {"model_type": "afterimage_vlm", "vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": c, "num_hidden_layers": 2, "num_attention_heads": heads, "intermediate_size": mlp,
        "patch_size": ps, "image_size": [h, w], "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
        "text_config": {"model_type": "llama", "hidden_size": dim}, "projector_hidden_act": "gelu", "vision_pool": [2, 2],
        "image_mean": [0.5, 0.4, 0.6], "image_std": [0.5, 0.25, 0.3]}
    save("vlm", config, names, {"last": x})


main()

"""The model, with the tensor names of its checkpoint: a SigLIP-style vision tower, a projector and a Llama-style decoder."""

import dataclasses
import json

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention


@dataclasses.dataclass
class Config:
    v_width: int = 256
    v_layers: int = 6
    v_heads: int = 4
    v_mlp: int = 1024
    width: int = 384
    layers: int = 8
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    mlp: int = 1024
    vocab: int = 2048
    theta: float = 10000.0

    def hf(self):
        return {
            "model_type": "afterimage_vlm",
            "architectures": ["AfterimageForConditionalGeneration"],
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": self.v_width, "num_hidden_layers": self.v_layers,
                              "num_attention_heads": self.v_heads, "intermediate_size": self.v_mlp, "patch_size": 16,
                              "image_size": [128, 256], "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
            "text_config": {"model_type": "llama", "hidden_size": self.width, "num_hidden_layers": self.layers,
                            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
                            "intermediate_size": self.mlp, "rms_norm_eps": 1e-5, "rope_theta": self.theta, "vocab_size": self.vocab,
                            "max_position_embeddings": 4096, "tie_word_embeddings": True, "hidden_act": "silu",
                            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
            "projector_hidden_act": "gelu", "vision_pool": [2, 2], "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
            "torch_dtype": "bfloat16",
        }


TINY = Config(v_width=64, v_layers=2, v_heads=1, v_mlp=128, width=96, layers=2, heads=2, kv_heads=1, head_dim=48, mlp=192)


class VisionAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.h = c.v_heads
        for n in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, n, nn.Linear(c.v_width, c.v_width))

    def forward(self, x):
        b, s, d = x.shape
        q, k, v = (p(x).view(b, s, self.h, d // self.h).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, s, d))


class VisionMLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(c.v_width, c.v_mlp), nn.Linear(c.v_mlp, c.v_width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(c.v_width, eps=1e-6), nn.LayerNorm(c.v_width, eps=1e-6)
        self.self_attn, self.mlp = VisionAttention(c), VisionMLP(c)

    def forward(self, x):
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionEmbeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, c.v_width, 16, 16)
        self.position_embedding = nn.Embedding(128, c.v_width)

    def forward(self, x):
        f = x.shape[0]
        x = x.view(f, 3, 8, 16, 16, 16).permute(0, 2, 4, 1, 3, 5).reshape(f, 128, 768)
        w = self.patch_embedding.weight
        return F.linear(x, w.view(w.shape[0], 768), self.patch_embedding.bias) + self.position_embedding.weight


class Encoder(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class VisionModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embeddings = VisionEmbeddings(c)
        self.encoder = Encoder(VisionLayer(c) for _ in range(c.v_layers))
        self.post_layernorm = nn.LayerNorm(c.v_width, eps=1e-6)


class VisionTower(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.vision_model = VisionModel(c)


class Projector(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(c.v_width, c.width), nn.Linear(c.width, c.width)

    def forward(self, x):
        return self.linear_2(F.gelu(self.linear_1(x)))


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight).to(x.dtype)


def rope_table(pos, dim, theta):
    """pos [B,S] -> cos, sin [B,1,S,dim], Llama's half-split convention."""
    inv = theta ** (-torch.arange(0, dim, 2, device=pos.device, dtype=torch.float32) / dim)
    a = (pos.float()[..., None] * inv).repeat(1, 1, 2)
    return a.cos()[:, None], a.sin()[:, None]


def rotate(x, cos, sin):
    a, b = x.float().chunk(2, -1)
    return (torch.cat((a, b), -1) * cos + torch.cat((-b, a), -1) * sin).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.h, self.kv, self.d = c.heads, c.kv_heads, c.head_dim
        self.q_proj = nn.Linear(c.width, c.heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.width, c.kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.width, c.kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.heads * c.head_dim, c.width, bias=False)

    def forward(self, x, cos, sin, mask):
        b, s, _ = x.shape
        q = rotate(self.q_proj(x).view(b, s, self.h, self.d).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(b, s, self.kv, self.d).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, s, self.kv, self.d).transpose(1, 2)
        q = q.to(v.dtype)
        k, v = (t.to(v.dtype).repeat_interleave(self.h // self.kv, 1) for t in (k, v))
        if isinstance(mask, BlockMask):
            y = flex_attention(q, k, v, block_mask=mask)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(b, s, self.h * self.d))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(c.width, c.mlp, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(c.mlp, c.width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(c.width), RMSNorm(c.width)
        self.self_attn, self.mlp = Attention(c), MLP(c)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab, c.width)
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c.layers))
        self.norm = RMSNorm(c.width)


class LanguageModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.model = Llama(c)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.vision_tower = VisionTower(c)
        self.multi_modal_projector = Projector(c)
        self.language_model = LanguageModel(c)
        self.apply(self._init)
        for l in self.vision_tower.vision_model.encoder.layers:
            for w in (l.self_attn.out_proj.weight, l.mlp.fc2.weight):
                nn.init.normal_(w, std=0.02 / (2 * c.v_layers) ** 0.5 * 1.5)
        for l in self.language_model.model.layers:
            for w in (l.self_attn.o_proj.weight, l.mlp.down_proj.weight):
                nn.init.normal_(w, std=0.02 / (2 * c.layers) ** 0.5 * 1.5)

    @staticmethod
    def _init(m):
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(m.weight, std=min(0.05, (m.weight[0].numel()) ** -0.5))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.Embedding):
            nn.init.normal_(m.weight, std=0.02)

    def encode(self, pixels):
        """pixels [F,3,128,256] -1..1 -> fine rows [F,32,width]: a grid of 4x8, row-major."""
        v = self.vision_tower.vision_model
        x = v.embeddings(pixels)
        for l in v.encoder.layers:
            x = l(x)
        return self.project(x)

    def project(self, x):
        x = self.vision_tower.vision_model.post_layernorm(x)
        f, _, d = x.shape
        x = x.view(f, 4, 2, 8, 2, d).mean((2, 4)).view(f, 32, d)
        return self.multi_modal_projector(x)

    @staticmethod
    def synopsis(fine):
        """fine rows [F,32,width] -> synopsis rows [F,8,width]: average pool 2x2 of the 4x8 grid."""
        f, _, d = fine.shape
        return fine.view(f, 2, 2, 4, 2, d).mean((2, 4)).reshape(f, 8, d)

    def decode(self, x, pos, mask):
        """x [B,S,width], pos [B,S] -> hidden [B,S,width] before the last norm."""
        cos, sin = rope_table(pos, self.c.head_dim, self.c.theta)
        for l in self.language_model.model.layers:
            x = l(x, cos, sin, mask)
        return x

    def head(self, h, labels, weights):
        """h [N,width] -> weighted loss sum, weight sum, whether the most likely token is the label [N]."""
        m = self.language_model.model
        logits = F.linear(m.norm(h), m.embed_tokens.weight).float()
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="none")
        return (loss * weights).sum(), weights.sum(), logits.argmax(-1) == labels


class Attend:
    """Who sees whom in a batch of [prefix P | questions Q]. Prefix rows see earlier prefix rows of their group; a question's rows see
    the prefix rows of its group and its own earlier rows. Groups and documents change every batch, shapes do not, so one
    BlockMask serves for ever: it reads these buffers."""

    BLOCK = 128

    def __init__(self, batch, p, q, device, flex=True):
        self.p, self.q, self.flex = p, q, flex
        self.group = torch.zeros(batch, p + q, dtype=torch.int32, device=device)  # -2: padding of the prefix
        self.doc = torch.full((batch, p + q), -3, dtype=torch.int32, device=device)  # -3 in the prefix
        group, doc = self.group, self.doc

        def mod(b, h, i, j):
            own = (j < p) | (doc[b, i] == doc[b, j])
            return (j <= i) & own & (group[b, i] == group[b, j])

        self.mod = mod
        self.mask = None
        if flex:
            k = self.BLOCK
            assert p % k == 0 and q % k == 0
            np_, nq = p // k, q // k
            rows = []
            for i in range(np_ + nq):
                # a question is at most one block long, so it lies in its block and the one before
                rows.append(list(range(i + 1)) if i < np_ else list(range(np_)) + [j for j in (i - 1, i) if j >= np_])
            n = np_ + nq
            num = torch.tensor([len(r) for r in rows], dtype=torch.int32, device=device).view(1, 1, n)
            idx = torch.tensor([r + [0] * (n - len(r)) for r in rows], dtype=torch.int32, device=device).view(1, 1, n, n)
            self.mask = BlockMask.from_kv_blocks(num, idx, BLOCK_SIZE=k, mask_mod=mod, seq_lengths=(p + q, p + q))

    def set(self, pgroup, qgroup, doc):
        self.group[:, :self.p].copy_(pgroup)
        self.group[:, self.p:].copy_(qgroup)
        self.doc[:, self.p:].copy_(doc)
        if self.flex:
            return self.mask
        s, dev = self.p + self.q, self.group.device
        i = torch.arange(s, device=dev)
        b = torch.arange(self.group.shape[0], device=dev)
        return self.mod(b[:, None, None], 0, i[None, :, None], i[None, None, :])[:, None]


def load_tokens(path):
    """What training needs of tokenizer.json: ids of the special tokens and of the hundred digit pairs."""
    with open(path) as f:
        vocab = json.load(f)["model"]["vocab"]
    special = {t: vocab[t] for t in ("<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|segment|>", "<|detail|>", "<|newest|>")}
    return special, [vocab[f"{i:02d}"] for i in range(100)], max(vocab.values()) + 1

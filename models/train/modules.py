"""The learned parts of a memory, with the tensor names of memory.safetensors: the indicator of any set of rows, the streaming encoder that
carries a summary from clip to clip (and reads questions), and the bridge that carries memory tokens from segment to segment. All of
them take and give rows of the decoder's embedding space; a frame's rows here are its eight pooled ones, unless said otherwise."""

import dataclasses

import torch
import torch.nn as nn
import torch.nn.functional as F

import model as M

ROWS = 8  # of a pooled frame, a clip's summary, a segment's memory


@dataclasses.dataclass
class Config:
    width: int = 384  # the decoder's
    indicator_hidden: int = 512
    indicator_dim: int = 128
    layers: int = 2
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    mlp: int = 1024
    theta: float = 10000.0
    clip_frames: int = 8
    bridge_heads: int = 6
    bridge_mlp: int = 1024
    bridge_frames: int = 8

    def hf(self):
        return {"indicator_hidden": self.indicator_hidden, "indicator_dim": self.indicator_dim, "layers": self.layers, "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim, "intermediate_size": self.mlp, "rms_norm_eps": 1e-5,
                "rope_theta": self.theta, "clip_frames": self.clip_frames, "summary_rows": ROWS, "bridge_heads": self.bridge_heads,
                "bridge_intermediate": self.bridge_mlp, "bridge_memory": ROWS, "bridge_frames": self.bridge_frames}

    @staticmethod
    def read(width, c):
        return Config(width, c["indicator_hidden"], c["indicator_dim"], c["layers"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"],
                      c["intermediate_size"], c["rope_theta"], c["clip_frames"], c["bridge_heads"], c["bridge_intermediate"], c["bridge_frames"])


TINY = Config(width=96, indicator_hidden=64, indicator_dim=16, heads=2, kv_heads=1, head_dim=48, mlp=128, bridge_heads=2, bridge_mlp=64)


def unit(x):
    return F.normalize(x.float(), dim=-1)


class Indicator(nn.Module):
    """rows [N,n,d] -> unit vectors [N,dim]: the maximum over the rows, projected."""

    def __init__(self, c):
        super().__init__()
        self.norm = M.RMSNorm(c.width)
        self.up = nn.Linear(c.width, c.indicator_hidden)
        self.down = nn.Linear(c.indicator_hidden, c.indicator_dim, bias=False)

    def forward(self, rows):
        return unit(self.down(F.gelu(self.up(self.norm(rows)), approximate="tanh").amax(-2)))


class Stream(nn.Module):
    """A small causal decoder. Over a clip: [history's start, summary of the clip before] [the clip's time, its rows] [summary slots] [mark].
    Over a question: [summary, if wanted] [its tokens] [mark]. Positions count from 0 without gaps."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.layers = nn.ModuleList(M.DecoderLayer(c) for _ in range(c.layers))
        self.norm = M.RMSNorm(c.width)
        self.slots = nn.Parameter(0.02 * torch.randn(ROWS, c.width))
        self.mark = nn.Parameter(0.02 * torch.randn(1, c.width))
        self.out = nn.Linear(c.width, c.width, bias=False)
        self.proj = nn.Linear(c.width, c.indicator_dim, bias=False)

    def run(self, x, valid):
        """x [N,S,d] with gaps where not valid [N,S]: closes the gaps, runs the layers, opens them again."""
        n, s, d = x.shape
        order = (~valid).int().argsort(dim=1, stable=True)
        back = order.argsort(1)
        x = x.gather(1, order[..., None].expand(n, s, d))
        cos, sin = M.rope_table(torch.arange(s, device=x.device)[None], self.c.head_dim, self.c.theta)
        for l in self.layers:
            x = l(x, cos, sin, None)
        return self.norm(x).gather(1, back[..., None].expand(n, s, d))

    def clip(self, before, has, start, at, rows, count, segment):
        """before [N,8,d], has [N]: the summary so far, and whether there is one; start, at [N,3,d]: time tokens of the history's and the
        clip's first frame; rows [N,T,8,d], count [N]: the clip's frames; segment [d]: the token before a time.
        Returns the summary [N,8,d] and the clip's indicator [N,dim]."""
        n, t, k, d = rows.shape
        there = torch.arange(t, device=rows.device) < count[:, None]
        mean = (rows * there[..., None, None]).sum(1) / count[:, None, None]
        seg = segment.to(rows.dtype).expand(n, 1, d)
        x = torch.cat((seg, start.to(rows.dtype), before.to(rows.dtype), seg, at.to(rows.dtype), rows.reshape(n, t * k, d),
                       mean.to(rows.dtype) + self.slots.to(rows.dtype), self.mark.to(rows.dtype).expand(n, 1, d)), 1)
        one = torch.ones(n, 4, dtype=torch.bool, device=rows.device)
        valid = torch.cat((has[:, None].expand(n, 4 + ROWS), one, there.repeat_interleave(k, 1), one[:, :1].expand(n, ROWS + 1)), 1)
        h = self.run(x, valid)
        return mean + self.out(h[:, -1 - ROWS:-1]), unit(self.proj(h[:, -1]))

    def query(self, tokens, length, summary=None, has=None):
        """tokens [N,L,d] embedded, length [N]; summary [N,8,d] for those that has [N]. Returns unit vectors [N,dim]."""
        n, l, d = tokens.shape
        x = torch.cat((tokens, self.mark.to(tokens.dtype).expand(n, 1, d)), 1)
        valid = torch.cat((torch.arange(l, device=x.device) < length[:, None], torch.ones(n, 1, dtype=torch.bool, device=x.device)), 1)
        if summary is not None:
            x = torch.cat((summary.to(x.dtype), x), 1)
            valid = torch.cat((has[:, None].expand(n, ROWS), valid), 1)
        return unit(self.proj(self.run(x, valid)[:, -1]))


class Recall(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.h = c.bridge_heads
        self.norm = M.RMSNorm(c.width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(c.width, c.width, bias=False) for _ in range(4))

    def forward(self, memory, cache, there):
        """memory [N,8,d] asks cache [N,m,8,d] of the newest segments' memories, itself among them, there [N,m]. Returns [N,8,d]."""
        n, m, k, d = cache.shape
        kv = self.norm(cache.reshape(n, m * k, d))
        q, key, v = (p.view(n, -1, self.h, d // self.h).transpose(1, 2) for p in (self.q_proj(self.norm(memory)), self.k_proj(kv), self.v_proj(kv)))
        y = F.scaled_dot_product_attention(q, key, v, attn_mask=there.repeat_interleave(k, 1)[:, None, None])
        return self.o_proj(y.transpose(1, 2).reshape(n, -1, d))


class Bridge(nn.Module):
    """One layer in which eight memory tokens and the rows of a segment's frames see one another."""

    CACHE = 32  # segments that recall looks back on

    def __init__(self, c):
        super().__init__()
        self.c, self.h = c, c.bridge_heads
        self.memory = nn.Parameter(0.02 * torch.randn(ROWS, c.width))
        self.frame_pos = nn.Parameter(0.02 * torch.randn(c.bridge_frames, c.width))
        self.norm1, self.norm2 = M.RMSNorm(c.width), M.RMSNorm(c.width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(c.width, c.width, bias=False) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(c.width, c.bridge_mlp, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(c.bridge_mlp, c.width, bias=False)
        self.out = nn.Linear(c.width, c.width, bias=False)
        self.recall = Recall(c)

    def segment(self, rows, count, recalled):
        """rows [N,T,8,d], count [N]: a segment's frames; recalled [N,8,d] of the segment before, zeros where there is none. Returns its memory
        [N,8,d] and its frames' rows [N,T,8,d]."""
        n, t, k, d = rows.shape
        there = torch.arange(t, device=rows.device) < count[:, None]
        mean = (rows * there[..., None, None]).sum(1) / count[:, None, None]
        x = torch.cat((self.memory + mean + recalled, (rows + self.frame_pos[:t, None]).reshape(n, t * k, d)), 1)
        seen = torch.cat((torch.ones(n, ROWS, dtype=torch.bool, device=x.device), there.repeat_interleave(k, 1)), 1)
        y = self.norm1(x)
        q, key, v = (p(y).view(n, -1, self.h, d // self.h).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        y = F.scaled_dot_product_attention(q, key, v, attn_mask=seen[:, None, None])
        x = x + self.o_proj(y.transpose(1, 2).reshape(n, -1, d))
        y = self.norm2(x)
        x = x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))
        y = self.out(x)
        return mean + y[:, :ROWS], rows + y[:, ROWS:].reshape(n, t, k, d)

    @staticmethod
    def thinned(frames):
        """Which frames of a segment of so many are shown: eight, evenly spread, each in the middle of its eighth."""
        n = min(frames, 8)
        return [(2 * i + 1) * frames // (2 * n) for i in range(n)]


class Memory(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.indicator, self.stream, self.bridge = Indicator(c), Stream(c), Bridge(c)
        self.apply(M.Model._init)
        for l in self.stream.layers:
            for w in (l.self_attn.o_proj.weight, l.mlp.down_proj.weight):
                nn.init.normal_(w, std=0.02 / (2 * c.layers) ** 0.5 * 1.5)
        for w in (self.stream.out.weight, self.bridge.out.weight):
            nn.init.zeros_(w)  # a summary starts as the mean of the rows, which the decoder can read


def pooled(fine):
    """fine rows [N,32,d] -> levels 1, 2 and 3 as [N,11,d]: 8 rows of 2x2 means, then 2 of those, then the mean of all."""
    n, _, d = fine.shape
    one = M.Model.synopsis(fine)
    two = one.view(n, 2, 2, 2, d).mean((1, 3))
    return torch.cat((one, two, two.mean(1, keepdim=True)), 1)

"""What PyTorch computes with the shipped weights, in fp32, to hold another implementation against. Usage: golden.py MODELS_DEFAULT OUT.safetensors

pixels u8 [2,128,256,3]; fine f32 [2,32,width]: the encoder's rows; synopsis f32 [1,8,width]: the mean of both frames' pooled rows;
ids i32 [n]: the prompt of one detail, one synopsis and the newest frame, with a question, visual rows as -1; logits f32 [k,vocab]: of the last
k positions; greedy i32: what greedy decoding goes on with, up to <|eos|>."""

import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import model as M


def load(folder):
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    v, t = c["vision_config"], c["text_config"]
    m = M.Model(M.Config(v_width=v["hidden_size"], v_layers=v["num_hidden_layers"], v_heads=v["num_attention_heads"], v_mlp=v["intermediate_size"],
                         width=t["hidden_size"], layers=t["num_hidden_layers"], heads=t["num_attention_heads"], kv_heads=t["num_key_value_heads"],
                         head_dim=t["head_dim"], mlp=t["intermediate_size"], vocab=t["vocab_size"], theta=t["rope_theta"]))
    m.load_state_dict({k: x.float() for k, x in load_file(os.path.join(folder, "model.safetensors")).items()})
    return m.eval()


def logits(m, x):
    n = x.shape[1]
    lm = m.language_model.model
    h = m.decode(x, torch.arange(n)[None], torch.ones(n, n, dtype=torch.bool).tril()[None, None])
    return torch.nn.functional.linear(lm.norm(h), lm.embed_tokens.weight)[0]


@torch.no_grad()
def main(folder, out):
    m, tok = load(folder), Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    y, x, c = torch.meshgrid(torch.arange(128), torch.arange(256), torch.arange(3), indexing="ij")
    pixels = torch.stack([(x * (k + 1) + y * 2 + c * 50 + (x * y) // (30 + k)) % 256 for k in range(2)]).to(torch.uint8)
    fine = m.encode((pixels.float() / 255 - 0.5).permute(0, 3, 1, 2).div(0.5).contiguous())
    syn = m.synopsis(fine).mean(0, keepdim=True)
    s = {n: tok.token_to_id(f"<|{n}|>") for n in ("bos", "eos", "user", "assistant", "segment", "detail", "newest")}

    def text(t):
        return tok.encode(t, add_special_tokens=False).ids

    ids = [s["bos"], s["detail"], *text("120431"), *[-1] * 32, s["segment"], *text("120400"), *[-1] * 8, s["newest"], *text("120459"), *[-1] * 32,
           s["user"], *text("What colour was the first car?"), s["assistant"]]
    emb = m.language_model.model.embed_tokens.weight

    def rows(ids):
        e = emb[torch.tensor(ids).clamp(min=0)].clone()
        e[torch.tensor(ids) < 0] = torch.cat((fine[0], syn[0], fine[1]))
        return e[None]

    got = logits(m, rows(ids))[-9:]
    going, greedy = list(ids), []
    while len(greedy) < 32:
        nxt = int(logits(m, rows(going))[-1].argmax())
        greedy.append(nxt)
        if nxt == s["eos"]:
            break
        going.append(nxt)
    save_file({"pixels": pixels.contiguous(), "fine": fine.contiguous(), "synopsis": syn.contiguous(), "ids": torch.tensor(ids, dtype=torch.int32),
               "logits": got.contiguous(), "greedy": torch.tensor(greedy, dtype=torch.int32)}, out)
    os.chmod(out, 0o644)
    print(f"{out}: {os.path.getsize(out) / 1024:.0f} KiB; greedy: {tok.decode(greedy, skip_special_tokens=False)!r}")


if __name__ == "__main__":
    main(*sys.argv[1:3])

import torch
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

import model as M


def fill(m):
    with torch.no_grad():
        for p in m.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return m


def test_decoder_is_transformers_llama():
    c = M.Config(layers=2)
    m = fill(M.Model(c)).eval()
    t = c.hf()["text_config"]
    cfg = LlamaConfig(**{k: v for k, v in t.items() if k not in ("model_type", "rope_theta")}, rope_parameters={"rope_type": "default", "rope_theta": t["rope_theta"]})
    ref = LlamaForCausalLM(cfg).eval()
    sd = {k.removeprefix("language_model."): v for k, v in m.state_dict().items() if k.startswith("language_model.")}
    missing, unexpected = ref.load_state_dict(sd, strict=False)
    assert not unexpected and missing == ["lm_head.weight"], (missing, unexpected)
    ref.tie_weights()
    x = 0.1 * torch.randn(2, 37, c.width)
    pos = torch.arange(37)[None].expand(2, -1)
    mask = torch.ones(37, 37, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        h = m.decode(x, pos, mask)
        lm = m.language_model.model
        got = torch.nn.functional.linear(lm.norm(h), lm.embed_tokens.weight)
        want = ref(inputs_embeds=x).logits
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_tower_is_transformers_siglip():
    c = M.Config(v_layers=2)
    m = fill(M.Model(c)).eval()
    v = c.hf()["vision_config"]
    cfg = SiglipVisionConfig(hidden_size=256, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024, patch_size=16, image_size=256,
                             hidden_act=v["hidden_act"], layer_norm_eps=1e-6, vision_use_head=False)
    ref = SiglipVisionModel(cfg).eval()
    # transformers knows square pictures only: take its position table for the shape at hand
    emb = (ref.vision_model if hasattr(ref, "vision_model") else ref).embeddings
    emb.position_embedding = torch.nn.Embedding(128, 256)
    emb.position_ids = torch.arange(128)[None]
    sd = {k.removeprefix("vision_tower."): t for k, t in m.state_dict().items() if k.startswith("vision_tower.")}
    if not hasattr(ref, "vision_model"):
        sd = {k.removeprefix("vision_model."): t for k, t in sd.items()}
    missing, unexpected = ref.load_state_dict(sd, strict=False)
    assert not unexpected and all("position_ids" in k for k in missing), (missing, unexpected)
    px = torch.rand(3, 3, 128, 256) * 2 - 1
    with torch.no_grad():
        want = ref(px).last_hidden_state
        vm = m.vision_tower.vision_model
        x = vm.embeddings(px)
        for l in vm.encoder.layers:
            x = l(x)
        torch.testing.assert_close(vm.post_layernorm(x), want, rtol=1e-4, atol=1e-4)
        fine = m.encode(px)
        pooled = torch.nn.functional.avg_pool2d(want.transpose(1, 2).reshape(3, 256, 8, 16), 2).flatten(2).transpose(1, 2)
        torch.testing.assert_close(fine, m.multi_modal_projector(pooled), rtol=1e-4, atol=1e-4)
        syn = torch.nn.functional.avg_pool2d(fine.transpose(1, 2).reshape(3, 384, 4, 8), 2).flatten(2).transpose(1, 2)
        torch.testing.assert_close(m.synopsis(fine), syn, rtol=1e-5, atol=1e-5)


def test_flex_mask_is_the_dense_mask():
    torch.manual_seed(0)
    b, p, q = 2, 256, 384
    flex, dense = M.Attend(b, p, q, "cpu"), M.Attend(b, p, q, "cpu", flex=False)
    pg = torch.zeros(b, p, dtype=torch.int32)
    pg[0, 200:] = -2
    pg[1, 100:] = 1
    qg = torch.zeros(b, q, dtype=torch.int32)
    qg[1, 150:] = 1
    doc = torch.stack((torch.arange(q) // 47, (torch.arange(q) + 13) // 101)).int()
    doc[0, 300:] = -1
    a, d = flex.set(pg, qg, doc), dense.set(pg, qg, doc)
    c = M.TINY
    at = fill(M.Attention(c))
    x = torch.randn(b, p + q, c.width)
    cos, sin = M.rope_table(torch.arange(p + q)[None].expand(b, -1), c.head_dim, 1e4)
    blocks = a.to_dense()[0, 0].bool().repeat_interleave(128, 0).repeat_interleave(128, 1)
    live = torch.cat((torch.ones(b, p, dtype=torch.bool), doc >= 0), 1)  # padding may lose some: its run is longer than a block
    assert not (d[:, 0] & live[:, :, None] & ~blocks).any()
    with torch.no_grad():
        got, want = at(x, cos, sin, a), at(x, cos, sin, d)
    torch.testing.assert_close(got[live], want[live], rtol=1e-4, atol=1e-5)


def test_size():
    n = sum(p.numel() for p in M.Model(M.Config()).parameters())
    assert 15e6 < n < 22e6 and n * 2 < 45 * 2**20

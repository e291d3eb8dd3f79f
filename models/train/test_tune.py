import os
import sys

import numpy as np
import pytest
import torch

import batches
import data
import layouts
import train
import tune

FEEDER = os.environ.get("FEEDER")
HERE = os.path.dirname(os.path.abspath(__file__))
TOKENIZER = os.path.join(HERE, "..", "default", "tokenizer.json")


def test_evidence_is_frames():
    pk = data.Packer(TOKENIZER, np.random.default_rng(0))
    frames = np.zeros((40, 24), np.float32)
    frames[:, 0] = np.arange(40) * .5
    frames[20:, 0] += 30  # a gap
    qa = [{"q": "Which way did the dog go?", "a": "The dog went to the left.", "type": "direction", "evidence": [[2.1, 4.0], [5, 5.2]]},
          {"q": "Was the door open at 10:00:31?", "a": "Yes, the door was open.", "type": "past_state", "evidence": [[15, 20]]},
          {"q": "Have you seen a car?", "a": "Yes, I saw a car.", "type": "event_occurrence", "evidence": [[i, i + 1] for i in range(12)]},
          {"q": "Is the gate open?", "a": "No, the gate is closed.", "type": "current_state"}]
    it = pk.clip(0, np.zeros((0, 16), np.float32), frames, np.zeros((0, 16), np.float32), [{"frame": 39, "clock": 0, "qa": qa}], 512, True)
    at = {it["types"][t]: k for k, t in enumerate(it["dtype"][0]) if t >= 0}
    k = at["direction"]
    assert it["evn"][0, k] == 2 and it["ev"][0, k, :2].tolist() == [[5, 9], [10, 11]] and it["seek"][0, k]
    start, n = it["qat"][0, k]
    assert pk.tok.decode(it["tok"][0, start:start + n].tolist()).strip() == qa[0]["q"]
    k = at["past_state"]
    assert it["ev"][0, k, 0].tolist() == [20, 21] and not it["seek"][0, k]  # nothing was seen then: the next frame
    assert it["evn"][0, at["event_occurrence"]] == -8 and it["evn"][0, at["current_state"]] == 0
    aged = pk.aged([{"frame": 1, "qa": [{"type": "when", "evidence": [[0, 4]]}]}], np.array([[0.0], [700.0]]))
    assert aged[0]["qa"][0]["type"] == "when@old"


@pytest.mark.skipif(not FEEDER, reason="FEEDER names no feeder")
def test_a_step_teaches_every_part(tmp_path, monkeypatch):
    """One batch of tiny streams through everything: layouts of all families, all losses; every part of the model gets a gradient but the eye."""
    monkeypatch.setattr(sys, "argv", ["x", "--feeder", FEEDER, "--tokenizer", TOKENIZER, "--out", str(tmp_path), "--tiny", "--dense", "--no-compile", "--device", "cpu"])
    ap = train.arguments()
    for f in ("--init", "--only", "--fresh", "--families"):
        ap.add_argument(f)
    ap.add_argument("--memory-lr", type=float, default=1e-3)
    tr = tune.Tuner(ap.parse_args())
    z, log = tr.size, open(tmp_path / "log", "ab")
    pool = batches.Pool("mixed", 1, z["q"], FEEDER, TOKENIZER, ["-mode", "clips", "-shots", "12", "-qa", "12", "-longest", "45"], 3, log)
    b = batches.build_long(pool, tr.types, np.random.default_rng(0), z["cap"], z["chunk"])
    pool.stop()
    s = tr.encoded(tr.to_device({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in b.items()}))
    tr.clusters(s)
    tr.planned(s)
    n = len(s.names)
    s.names = np.array([tr.names[i % len(tr.names)] for i in range(n)])
    s.names[-2:] = "propagated", "bridge"
    tr.laid_out(s)
    assert {tr.names[i] for i in s.family} == set(layouts.FAMILIES)
    for sel in (np.array([0, 1]), np.array([n - 1, n - 2])):
        loss, right, q, snaps = tr.answers(s, s.shown, s.of, s.keep, sel, 1792)
        live, ok = tr.exact(right, q)
        assert torch.isfinite(loss) and not (ok & ~live).any()
    (loss + tr.search(s, torch.arange(n))).backward()
    for name, p in [*tr.learned.named_parameters(), *tr.model.language_model.named_parameters()]:
        if not name.startswith("bridge.recall"):  # only from a stream's second segment on
            assert p.grad is not None and torch.isfinite(p.grad).all(), name
    assert all(p.grad is None for p in tr.model.vision_tower.parameters())
    before = tr.learned.stream.slots.detach().clone()
    tr.update(tr.answers(s, s.shown, s.of, s.keep, sel, 1792)[0])
    assert not torch.equal(before, tr.learned.stream.slots) and tr.step == 1

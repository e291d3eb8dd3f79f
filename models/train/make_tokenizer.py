"""Makes tokenizer.json: byte-level BPE on what the feeder writes. Usage: make_tokenizer.py FEEDER OUT"""

import subprocess
import sys
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|segment|>", "<|detail|>", "<|newest|>"]
# Digits in groups of at most two, so that HHMMSS is always three tokens.
PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def main(feeder, out, vocab=2048, clips=4000):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, min_frequency=2, special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIAL],
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    text = subprocess.run([feeder, "-mode", "text", "-seed", "0", "-count", str(clips)], stdout=subprocess.PIPE, check=True).stdout.decode()
    lines = text.splitlines()
    pairs = [f"{i:02d}" for i in range(100)]
    common = " ".join(sorted({w for l in lines for w in l.split()}))
    tok.train_from_iterator([*lines, *(pairs * (len(lines) // 10 + 100)), common], trainer)
    tok.save(out)
    ids = [tok.token_to_id(p) for p in pairs]
    assert None not in ids, "a pair of digits is not one token"
    assert [tok.token_to_id(s) for s in SPECIAL] == list(range(8))
    for l in lines[:2000] + ["Grüße, 北京! \t x\n\n  y 1234567 don't", "120431"]:
        assert tok.decode(tok.encode(l, add_special_tokens=False).ids, skip_special_tokens=False) == l, l
    assert len(tok.encode("120431").ids) == 3
    n = sum(len(e.ids) for e in tok.encode_batch(lines[:20000]))
    print(f"{out}: {tok.get_vocab_size()} tokens, {len(lines)} lines, {n / len(lines[:20000]):.1f} tokens a line, longest "
          f"{max(len(e.ids) for e in tok.encode_batch(lines[:20000]))}")


if __name__ == "__main__":
    main(*sys.argv[1:3])

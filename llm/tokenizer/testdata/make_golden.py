"""Makes the golden files of this folder with Hugging Face's own tokenizers (0.23.3) and Google's sentencepiece (0.2.3), from a fixed seed.

    python make_golden.py

texts.json.gz         the strings that every tokenizer encodes: hand-made ones, then 3,000 fuzzed
NAME.tokenizer.json   a small tokenizer with a published pipeline, trained on the corpus below
NAME.tokenizer.model  the same, of sentencepiece
NAME.golden.json      what it makes of the texts: the ids of the first 200, a digest of all ids and of all decoded texts, and two bytes
                      of each text's own digests, which tell where a difference is; random, decoded: token lists and what they decode to;
                      mixed: texts between special tokens, with the ids of the whole
behaviours.json       other pre_tokenizer settings over the first tokenizer's vocabulary, with the ids they give
"""

import base64
import gzip
import hashlib
import io
import json
import os
import random
import unicodedata

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|segment|>", "<|detail|>", "<|newest|>"]
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

rng = random.Random(20250623)
PEOPLE = ["a woman in a red coat", "a man in a blue jacket", "the postman", "a child with a yellow hat", "nobody"]
DID = ["arrived", "left", "crossed to the left", "dropped a parcel", "took the parcel", "opened the door", "didn't stop"]
CORPUS = [
    f"At {rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02} {rng.choice(PEOPLE)} {rng.choice(DID)}."
    for _ in range(400)
] + [
    "What happened before the van left? How many people were seen? Is the lamp on? I've seen it, they'll say, we're sure.",
    "Was geschah um 14:03 Uhr? Die Tür öffnete sich; ein Mädchen ging über die Straße. Où est le vélo? ¿Quién llegó?",
    "Что произошло в 14:03? 門が開いた。 何人 いますか？ 사람이 왔다 👩‍👧 🚲🚪 naïve café ﬁn Ⅷ ½ ٣٤",
    "for i := range 10 {\n\tfmt.Println(i, i*i)\n}\r\n\r\n   return nil  // done\n",
] * 8


def train(normalizer, pre, size=420, ordinary=(), ignore_merges=False, missing=""):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=size,
            show_progress=False,
            initial_alphabet=sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(missing)),
            special_tokens=SPECIAL,
        ),
    )
    t.add_tokens(list(ordinary))
    return t


def byte_level(use_regex, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


TOKENIZERS = {
    "afterimage": train(None, pre_tokenizers.Sequence([split(r"\p{N}{1,2}"), byte_level(True)])),
    "gpt2": train(None, byte_level(True, prefix=True)),
    "qwen2": train(
        normalizers.NFC(),
        pre_tokenizers.Sequence([split(GPT4 % ""), byte_level(False)]),
        ordinary=[
            AddedToken("<think>", normalized=False),
            AddedToken("<think>x", normalized=False),
            AddedToken("t\u014d!", normalized=True),
        ],
    ),
    "llama3": train(
        None, pre_tokenizers.Sequence([split(GPT4 % "{1,3}"), byte_level(False)]), ignore_merges=True
    ),
    "smollm": train(
        None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)])
    ),
}


def rune_vocab(size, bytes_too):
    """A BPE over characters: special tokens, the byte tokens, what was learned."""
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, limit_alphabet=90, show_progress=False))
    model = json.loads(t.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256) if bytes_too]
    names += sorted(model["vocab"], key=model["vocab"].get)
    return {n: i for i, n in enumerate(names)}, model["merges"]


SPACE = "\u2581"
VOCAB, MERGES = rune_vocab(500, True)
PLAIN_VOCAB, PLAIN_MERGES = rune_vocab(500, False)
LLAMA_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}],
}
TO_SPACE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
GEMMA_DECODER = {"type": "Sequence", "decoders": [TO_SPACE, {"type": "ByteFallback"}, {"type": "Fuse"}]}
LLAMA_DECODER = {
    "type": "Sequence",
    "decoders": GEMMA_DECODER["decoders"] + [{"type": "Strip", "content": " ", "start": 1, "stop": 0}],
}
BOS_FIRST = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}


def runes(normalizer, pre, decoder, added=(), bytes_too=True, fuse=True, **model):
    vocab, merges = (VOCAB, MERGES) if bytes_too else (PLAIN_VOCAB, PLAIN_MERGES)
    t = Tokenizer.from_str(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": BOS_FIRST, "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": fuse, "byte_fallback": bytes_too, "ignore_merges": False, "vocab": vocab, "merges": merges, **model,
        },
    }))
    t.add_tokens([AddedToken(n, special=True, normalized=False) for n in ["<unk>", "<s>", "</s>"]])
    t.add_tokens(list(added))
    return t


def unigram(normalizer, pre, decoder, bytes_too):
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=400, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    vocab = json.loads(t.to_str())["model"]["vocab"]
    # Hugging Face finds special pieces in plain text; with such scores it never takes them, and ours cannot.
    vocab = [[n, -1000.0 if i < 3 else s] for i, (n, s) in enumerate(vocab)]
    vocab += [[c, -20.0] for c in "<>/sunk" if not any(n == c for n, _ in vocab)]
    if bytes_too:
        vocab += [[f"<0x{b:02X}>", -900.0] for b in range(256)]
    t = Tokenizer.from_str(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": None, "decoder": decoder,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": bytes_too},
    }))
    t.add_tokens([AddedToken(n, special=True, normalized=False) for n in ["<unk>", "<s>", "</s>"]])
    return t


def ordinary(name, **how):
    return AddedToken(name, special=False, **how)


PHI3 = ["<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<img>", "</img>"]
TOKENIZERS |= {
    # Llama 2, Vicuna, LLaVA-1.5, InternLM2: converted from sentencepiece.
    "llama2": runes(LLAMA_NORMALIZER, None, LLAMA_DECODER),
    # The same as transformers 5 makes it of a tokenizer.model that says legacy: false.
    "llama2first": runes(None, {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}, LLAMA_DECODER),
    "phi3": runes(LLAMA_NORMALIZER, None, LLAMA_DECODER, [
        AddedToken(n, special=True, normalized=False, rstrip=n.startswith("<|") and n != PHI3[0]) for n in PHI3]),
    "gemma": runes(
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        GEMMA_DECODER, [ordinary("\n\n", normalized=False), ordinary(SPACE * 3, normalized=False)]),
    # The older form of Metaspace, and a vocabulary that does not know every character.
    "metaspace": runes(
        {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        {"type": "Metaspace", "replacement": SPACE, "str_rep": SPACE, "add_prefix_space": True},
        {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}, bytes_too=False),
    "words": runes(
        {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"},
                                             {"type": "Strip", "strip_left": True, "strip_right": True}]},
        {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Punctuation", "behavior": "Isolated"},
                                               {"type": "Digits", "individual_digits": False}]},
        {"type": "Fuse"}, bytes_too=False, fuse=False),
    "split": runes(
        {"type": "NFC"},
        {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                                               {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": True},
                                               {"type": "Punctuation", "behavior": "MergedWithPrevious"}]},
        GEMMA_DECODER, ignore_merges=True),
    "added": runes(LLAMA_NORMALIZER["normalizers"][1], None, LLAMA_DECODER, [
        ordinary("<a>", rstrip=True, normalized=False), ordinary("<b>", lstrip=True, normalized=False),
        ordinary("<c>", lstrip=True, rstrip=True, normalized=False), ordinary("word", single_word=True, normalized=False),
        ordinary("the red", normalized=True), ordinary("Norm", normalized=True, single_word=True),
        ordinary("ed", normalized=True, lstrip=True), AddedToken("<|u|>", special=True, normalized=True),
        AddedToken("<a><", special=True, normalized=False)]),
    "unigram": unigram(
        {"type": "NFKC"}, {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True},
        {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}, False),
    "unigrambytes": unigram(LLAMA_NORMALIZER, None, LLAMA_DECODER, True),
    # SmolLM2's own vocabulary has no tokens for bytes 04 06 13 14 16 1D F1 F2: characters of those vanish, in part or whole.
    "smollm2": train(
        None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]),
        missing="\u0104\u0106\u0113\u0114\u0116\u011d\u00f1\u00f2"),
}


def piece_model(**how):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, model_type="bpe", vocab_size=600, character_coverage=0.98,
        num_threads=1, minloglevel=2, hard_vocab_limit=False, **how)
    return out.getvalue()


def with_unused(model):
    """Every ninth learned piece is not to be used."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for p in [p for p in proto.pieces if p.type == p.NORMAL][::9]:
        p.type = p.UNUSED
    return proto.SerializeToString()


MODELS = {
    # Llama 2 and InternLM2.
    "spllama": piece_model(
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True),
    "spuser": piece_model(
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
        user_defined_symbols=["<a>", "<a><", "the red", "  ", "\n"], control_symbols=["<b>"]),
    "spunused": with_unused(piece_model(normalization_rule_name="identity", split_by_whitespace=False, max_sentencepiece_length=24)),
    "spnmt": piece_model(normalization_rule_name="nmt_nfkc_cf", user_defined_symbols=["<a>"]),
}

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABC xyz  '''sStTdDlLmMvVeE",
    "0123456789:. ",
    "   \t\n\r\u00a0\u2003\u3000\u200b\u0085\u2028",
    "éèüßñçøåÆ\u0301\u0308\u0323",
    "абвгд ЖЗИ їє",
    "日本語門開 が。、가각힣\u1100\u1161\u11a8",
    "٠١٢٣ ½¼ Ⅷ² ௧ ०१२",
    "👩‍👧🚲🚪🏳️‍🌈\ufe0f\U0001f3fd",
    "!?.,;:-_()[]{}<>|/\\\"'`~@#$%^&*+=",
    "ſKÅ ℌﬁ ǅ İı",
    "\x00\x01\x04\x06\x13\x1d\x7f\ufffd\u0378\ue000\U00070001\U0010ffff",
]
HAND = [
    "", " ", "  ", "\n", "a", "Hello, world!", "I've they'LL we'Re it'S 's'", "'ſ 'ſt it'ſ", "14:03:10", "140310", "1 22 333 4444 55555",
    "<|user|>What?<|assistant|>", "<|eos|>", "<|eo", "a<|bos|>b", "<think>so</think>", "<think>x", "café! cafe\u0301! cafe\u0301", "to\u0304! t\u014d! to!", "Å \u212b A\u030a",
    "   leading", "trailing   ", "tab\tand\nnewline\r\n\r\nend", "a" * 300, " " * 100 + "x", "1" * 50, "\n" * 40, "ab" * 100, "🚲" * 20,
    "<s>", "</s>a<s>", "<unk>", "<0x0A>", "\u2581", " \u2581\u2581 a", "<a> b  <b> <c>  x<a><", "word sword word1 word", "Norm  Norm", "e\u0301" * 40,
] + CORPUS[400:404]
MARKS = ["<a>", "<b>", "<c>", "word", "Norm", "the red", "<s>", "</s>", "<|user|>", "<|u|>", "<a><", " ", "  ", "r", "\n", "\u2581"]


def fuzz():
    out = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.random()
        if kind < 0.3:
            line = rng.choice(CORPUS)
            i = rng.randrange(len(line))
            out.append(line[i : i + rng.randrange(1, 14)])
        elif kind < 0.4:
            out.append("".join(rng.choice(MARKS) for _ in range(rng.randrange(1, 6))))
        elif kind < 0.9:
            alphabet = rng.choice(ALPHABETS)
            out.append("".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 10))))
        else:
            while True:
                c = rng.choice([rng.randrange(0x3000), rng.randrange(0x20000)])
                if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) != "Cn":
                    out.append(chr(c))
                    break
    return rng.choice(["", " ", "", ""]).join(out)


texts = HAND + [fuzz() for _ in range(3000)]


def dump(name, value):
    with open(name, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


with gzip.GzipFile("texts.json.gz", "wb", mtime=0) as f:
    f.write(json.dumps(texts).encode())


def golden(name, size, encode, decode, specials, whole=None):
    ids = [encode(s) for s in texts]
    lines = [",".join(map(str, i)).encode() for i in ids], [decode(i).encode() for i in ids]
    digests = [[hashlib.sha256(line).digest() for line in part] for part in lines]
    lists = [[rng.randrange(size) for _ in range(rng.randrange(1, 12))] for _ in range(100)]
    mixed = []
    for _ in range(80 if whole else 0):
        parts = []
        for _ in range(rng.randrange(1, 6)):
            if parts and parts[-1][0] or rng.random() < 0.5:
                parts.append(["", rng.choice(["a", " b", "  ", "\n", "\nHello ", " 14:03 ", "What happened?", "\u00e9 \U0001f6b2", "    x"])])
            else:
                parts.append([rng.choice(specials), ""])
        if any(not a[0] and not b[0] for a, b in zip(parts, parts[1:])):
            continue
        mixed.append({"parts": parts, "ids": whole(parts)})
    dump(f"{name}.golden.json", {
        "size": size,
        "ids": hashlib.sha256(b"".join(digests[0])).hexdigest(),
        "texts": hashlib.sha256(b"".join(digests[1])).hexdigest(),
        "checks": base64.b64encode(b"".join(a[:1] + b[:1] for a, b in zip(*digests))).decode(),
        "first": ids[:200],
        "random": lists,
        "decoded": [decode(i) for i in lists],
        "mixed": mixed,
    })


def together(t, parts):
    """The ids of a whole prompt. The token that every text begins with is not part of the text where the tokenizer adds it itself."""
    bos = parts[0][0] == "<s>" and t.post_processor is not None
    return t.encode("".join(a + b for a, b in parts[bos:]), add_special_tokens=bos).ids


# A tokenizer that is there stays: training breaks ties as its hash tables happen to lie. Delete the file to train it anew.
for name in TOKENIZERS:
    if os.path.exists(f"{name}.tokenizer.json"):
        TOKENIZERS[name] = Tokenizer.from_file(f"{name}.tokenizer.json")

for name, t in TOKENIZERS.items():
    model = json.loads(t.to_str())
    if name == "llama3":  # the older spelling of merges
        model["model"]["merges"] = [" ".join(m) for m in model["model"]["merges"]]
    dump(f"{name}.tokenizer.json", model)
    specials = [a["content"] for a in model["added_tokens"] if a["special"] and not a["normalized"]]
    plain = Tokenizer.from_str(t.to_str())
    plain.encode_special_tokens = True
    golden(
        name, t.get_vocab_size(with_added_tokens=True), lambda s: plain.encode(s, add_special_tokens=False).ids,
        lambda ids: t.decode(ids, skip_special_tokens=True), specials,
        lambda parts: together(t, parts))
for name, model in MODELS.items():
    with open(f"{name}.tokenizer.model", "wb") as f:
        f.write(model)
    t = sentencepiece.SentencePieceProcessor(model_proto=model)
    golden(name, t.vocab_size(), t.encode, lambda ids: t.decode([i for i in ids if i != t.unk_id()]), [])

base = json.loads(TOKENIZERS["afterimage"].to_str())
behaviours = []
for pattern in [{"Regex": r"\p{N}{1,2}"}, {"String": " "}, {"Regex": r"[aeiou]+"}]:
    for behaviour in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        for invert in [False, True]:
            pre = {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": pattern, "behavior": behaviour, "invert": invert},
                    {"type": "Digits", "individual_digits": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
                ],
            }
            t = Tokenizer.from_str(json.dumps({**base, "pre_tokenizer": pre}))
            t.encode_special_tokens = True
            behaviours.append(
                {"pre_tokenizer": pre, "ids": [t.encode(s, add_special_tokens=False).ids for s in texts[:100]]}
            )
dump("behaviours.json", behaviours)

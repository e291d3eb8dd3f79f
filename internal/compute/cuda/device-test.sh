#!/usr/bin/env bash
# All that only a machine with a GPU can tell: the tests with -tags cuda, NVIDIA's checkers of memory accesses and races, and the
# benchmarks beside other programs.
#
#   internal/compute/cuda/device-test.sh              builds what is missing, or not up to date, where there is a CUDA toolkit and Go
#   internal/compute/cuda/device-test.sh build DIR    only builds, into DIR: for a machine with a GPU that has neither
#   internal/compute/cuda/device-test.sh run DIR      only runs what is in DIR
#
# PARTS names what is run (tests memcheck racecheck kernels encoder engine peers), OUT where full logs and rows go (out/device).
set -uo pipefail

cd "$(dirname "$0")/../../.."
mode=${1:-all}
dir=${2:-bin/device}
out=${OUT:-out/device}
parts=${PARTS:-tests memcheck racecheck peers kernels encoder engine}
models=bench/peers/models
decoders=${DECODERS:-qwen2-7b qwen2-0.5b llama-7b phi-3-mini qwen2-1.5b}
towers=${TOWERS:-clip-vit-l-14-224 clip-vit-l-14-336 siglip-so400m-384 internvit-300m-448 qwen2-vl-vit}
# The checkers slow kernels down a hundredfold, most of it on the processor, so tests are checked in groups at the same time. They take
# what some tests break on purpose for errors, and see nothing new in a few others.
groups=${CHECKED:-Gemm Skinny DecodeAttention Prefill DecoderLogits DecoderBits Decoder Sample Conformance Ops .}
unchecked='DeviceLost|NoMemory|Describe|DecoderErrors|LaunchErrors|LargeCopies|Quantised|RandomWeights'

say() { echo "device-test: $*" >&2; }

# packages lists those with tests for GPUs.
packages() {
	git ls-files -co --exclude-standard -- '*_test.go' | xargs grep -l '^//go:build cuda' | xargs -n1 dirname | sort -u
}

build() {
	. scripts/env.sh
	[ -n "${NVCC:-}" ] || { say "no CUDA toolkit: make cuda fetches one"; return 1; }
	make --no-print-directory -C internal/compute/cuda || return 1
	mkdir -p "$1"
	# Small enough to carry: the weights lie in the repository, and nobody debugs this program.
	printf '{"Replace": {"%s/models/default/model.safetensors": ""}}' "$PWD" >"$1/overlay.json"
	go build -tags cuda -ldflags='-s -w' -overlay "$1/overlay.json" -o "$1/afterimage-cuda" ./cmd/afterimage || return 1
	for p in $(packages); do
		go test -tags cuda -ldflags='-s -w' -overlay "$1/overlay.json" -c -o "$1/$(echo "$p" | tr / -).test" "./$p" || return 1
	done
	packages >"$1/packages"
}

table=
# note WHAT RESULT adds a line to the table at the end.
note() { table+=$(printf '%-44s %s' "$1" "$2")$'\n'; }

# step NAME COMMAND... runs with all output in a log and notes how it ended.
step() {
	local name=$1 log=$out/$(echo "$1" | tr ' /' '--').log start=$SECONDS
	shift
	say "$name"
	if "$@" >"$log" 2>&1; then note "$name" "ok, $((SECONDS - start)) s"; else
		note "$name" "FAILED, see $log"
		failed=1
		tail -n 15 "$log" >&2
	fi
}

# check TOOL PROGRAM runs a checker over every group of the kernels' tests; a test is in the first group that names it.
check() {
	local tool=$1 g pids=() before=$unchecked ended=0
	if [ "$tool" = racecheck ]; then
		before+='|Conformance/Elementwise' # no shared memory
	fi
	for g in $groups; do
		CHECKER="compute-sanitizer --tool $tool --error-exitcode 1" in_package "$2" internal/compute/cuda \
			-test.run "$g" -test.skip "$before" -test.short -test.v -test.timeout 20m >"$out/$tool-${g/./rest}.part" 2>&1 &
		pids+=($!)
		before+="|$g"
	done
	for g in "${pids[@]}"; do wait "$g" || ended=1; done
	for g in $groups; do
		echo "== $g"
		grep -v '^ *\(=== \|--- PASS.*(0.00s)\)' "$out/$tool-${g/./rest}.part"
		rm "$out/$tool-${g/./rest}.part"
	done
	return $ended
}

# in_package PROGRAM PACKAGE FLAGS... runs a test program where `go test` would.
in_package() {
	local program package=$2
	program=$(realpath "$1")
	shift 2
	(cd "$package" && exec ${CHECKER:-} "$program" "$@")
}

run() {
	failed=0
	mkdir -p "$out"
	out=$(realpath "$out")
	local bin=$1/afterimage-cuda p t
	case " $parts " in *" tests "*)
		while read -r p; do
			local only=.
			[ "$p" != cmd/afterimage ] || only=GPUs # its other tests want cameras and a browser, and have no use for a GPU
			step "tests $p" in_package "$1/$(echo "$p" | tr / -).test" "$p" -test.run "$only" -test.timeout 10m
		done <"$1/packages" ;;
	esac
	for t in memcheck racecheck; do
		case " $parts " in *" $t "*)
			if command -v compute-sanitizer >/dev/null; then step "$t" check "$t" "$1/internal-compute-cuda.test"
			else note "$t" "left out: there is no compute-sanitizer"; fi ;;
		esac
	done
	local peers=()
	case " $parts " in *" peers "*)
		if python3 -c 'import torch' 2>/dev/null; then
			step peers timeout 300 python3 bench/peers/peers.py --seconds "${PEERS_SECONDS:-150}" --out "$out/peers.jsonl" --models "${decoders// /,}" --towers "${towers// /,}"
		else note peers "left out: there is no torch"; fi ;;
	esac
	[ -s "$out/peers.jsonl" ] && peers=(--peers "$out/peers.jsonl")
	local random=() more=()
	for t in $decoders; do random+=(--random-weights "$models/$t.json"); done
	for t in $towers; do more+=(--random-weights "$models/$t.json"); done
	case " $parts " in *" kernels "*) step "bench kernels" timeout 100 "$bin" bench kernels --json "$out/kernels.jsonl" "${peers[@]}" ;; esac
	case " $parts " in *" encoder "*) step "bench encoder" timeout 100 "$bin" bench encoder --json "$out/encoder.jsonl" "${peers[@]}" "${more[@]}" ;; esac
	case " $parts " in *" engine "*)
		step "bench engine" timeout 240 "$bin" bench engine --json "$out/engine.jsonl" "${peers[@]}" "${random[@]}"
		step "bench engine, own model" timeout 60 "$bin" --model models/default bench engine ;;
	esac
	for t in kernels encoder engine; do [ -f "$out/bench-$t.log" ] && grep '^|' "$out/bench-$t.log"; done
	printf '\n%s' "$table"
	return $failed
}

case $mode in
build) build "$dir" ;;
run) run "$dir" ;;
all)
	. scripts/env.sh
	if [ -n "${NVCC:-}" ] && command -v go >/dev/null; then build "$dir" || exit 1; fi
	run "$dir"
	;;
*)
	say "usage: device-test.sh [build DIR | run DIR]"
	exit 2
	;;
esac

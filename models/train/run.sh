#!/usr/bin/env bash
# Trains models/default on a machine with a GPU and PyTorch, from the repository's root. FEEDER is the static feeder binary.
#   run.sh smoke [SECONDS]   checks the kernels, then every stage for a while at full size; speeds in the log
#   run.sh start [SECONDS]   trains in the background; it goes on when this shell ends
#   run.sh watch SECONDS     follows the log until the run is done or the time is up, then leaves what there is in $OUT
# MAIN=tune.py in place of train.py goes on from a model: ARGS="--init models/default".
set -u
here=$(cd "$(dirname "$0")" && pwd)
CACHE_HOME=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/afterimage-train
RUN=${RUN:-$CACHE_HOME/run}
FEEDER=${FEEDER:-$here/feeder/feeder}
TOKENIZER=${TOKENIZER:-$here/../default/tokenizer.json}
PYTHON=${PYTHON:-python3}
OUT=${OUT:-$RUN/collected}
ARGS=${ARGS:-}
MAIN=${MAIN:-train.py}
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false TORCHINDUCTOR_CACHE_DIR=$CACHE_HOME/inductor PYTHONPATH="$here"
export OMP_NUM_THREADS=2 PYTHONDONTWRITEBYTECODE=1
mkdir -p "$RUN" "$OUT"
chmod +x "$FEEDER" 2>/dev/null
unpack() { [ -f "${CACHE:-}" ] && mkdir -p $TORCHINDUCTOR_CACHE_DIR && tar xzf "$CACHE" -C $TORCHINDUCTOR_CACHE_DIR && echo "compiler cache unpacked"; true; }
collect() {
  cp "$RUN"/export/*.safetensors "$RUN"/export/*.json "$OUT"/ 2>/dev/null
  cp "$RUN"/curves.json "$OUT"/ 2>/dev/null
  cat "$RUN"/stdout.log "$RUN"/workers.log 2>/dev/null | tail -c 3000000 >"$OUT"/train.log
  ls -la "$OUT"
}
case "${1:-}" in
smoke)
  unpack
  nproc; free -g | head -2; nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
  timeout $((${2:-170} + 150)) $PYTHON "$here/$MAIN" --check --feeder "$FEEDER" --tokenizer "$TOKENIZER" --out "$RUN" --seconds "${2:-170}" \
    --fractions 0.36,0.32 --every 6 $ARGS 2>&1 | tee "$RUN/stdout.log" | cut -c1-700
  cp "$RUN/train.log" "$OUT/smoke.log"
  tail -5 "$RUN/workers.log"
  cd $TORCHINDUCTOR_CACHE_DIR 2>/dev/null && tar czf "$CACHE_HOME"/cache.tgz . && ls -la "$CACHE_HOME"/cache.tgz && [ "$(stat -c %s "$CACHE_HOME"/cache.tgz)" -lt 15500000 ] && cp "$CACHE_HOME"/cache.tgz "$OUT/"
  ;;
start)
  unpack
  rm -rf "$RUN"; mkdir -p "$RUN"
  # it runs from a copy: the tree may be renewed under it. A run that dies takes up its last checkpoint; the clock goes on.
  mkdir -p "$RUN/code"; cp "$here"/*.py "$here"/kernels.cu "$TOKENIZER" "$FEEDER" "$RUN/code/"; chmod +x "$RUN/code/$(basename "$FEEDER")"
  export PYTHONPATH="$RUN/code"
  cat >"$RUN/loop.sh" <<END
for try in 1 2 3 4; do
  $PYTHON '$RUN/code/$MAIN' --resume --t0 $(date +%s) --feeder '$RUN/code/$(basename "$FEEDER")' --tokenizer '$RUN/code/$(basename "$TOKENIZER")' \\
    --out '$RUN' --seconds ${2:-1140} $ARGS >>'$RUN/stdout.log' 2>&1 && break
  echo "try \$try ended with \$?" >>'$RUN/stdout.log'; sleep 1
done
END
  setsid bash "$RUN/loop.sh" </dev/null >/dev/null 2>&1 &
  echo started
  ;;
watch)
  end=$((SECONDS + ${2:-560}))
  seen=0
  show() {
    local now; now=$(wc -l <"$RUN/stdout.log" 2>/dev/null || echo 0)
    [ "$now" -gt "$seen" ] && sed -n "$((seen + 1)),${now}p" "$RUN/stdout.log" | cut -c1-"${WIDTH:-600}"
    seen=$now
  }
  while [ $SECONDS -lt $end ] && [ ! -f "$RUN/DONE" ]; do show; sleep 2; done
  show
  collect
  ;;
*) sed -n 2,7p "$0"; exit 2 ;;
esac

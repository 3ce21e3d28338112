#!/usr/bin/env bash
# bench/grids/small.toml on a GPU machine without network, as far as SECONDS go; run it again to continue.
#
#   BASE=/tmp/base DATA=/tmp/data OUT=/tmp/out SECONDS_=420 WORKERS=10 tools/run_small_gpu.sh
#
#   BASE     folder of the base (tools/unpack_gguf.py)        DATA   local mirror of the datasets
#   OUT      where the results are packed                     RUNS   the store; default /tmp/small
#   SECONDS_ for the grids; packing takes a few more          WORKERS, SIDE   processes for all tasks, for OBQA's long families
#   GRAPHS=1 train with CUDA graphs (about 5 GB a process)    MPS=1  let the processes share the GPU through NVIDIA's MPS
#   STEPS    other than the grid's                            TASKS, LAST   tasks of the first phase; 1: the ensemble too
#
# Order: all rows but the ensemble on ARC-C, WG-S, OBQA (families in that order, every seed), then the ensemble. A second
# grid takes OBQA's AdamW families from the start: Laplace on 4957 examples takes longest. Both skip what the other holds.
set -uo pipefail
cd "$(dirname "$0")/.."
RUNS=${RUNS:-/tmp/small} SECONDS_=${SECONDS_:-420} WORKERS=${WORKERS:-10} SIDE=${SIDE:-2}
mkdir -p "$OUT" "$RUNS" && work=$(mktemp -d)
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
ends=$(( $(date +%s) + SECONDS_ ))

if [ "${MPS:-0}" = 1 ]; then
    export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/mps && mkdir -p "$work/mps"
    nvidia-cuda-mps-control -d || unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
fi

grid() {  # NAME WORKERS TASKS METHODS
    sed -e "/^methods = \[/,/^\]/d" -e "s/^tasks = .*/tasks = [$3]\nmethods = [$4]/" bench/grids/small.toml > "$work/$1.toml"
    local left=$(( ends - $(date +%s) ))
    [ "$left" -gt 15 ] || return 0
    timeout -s TERM -k 15 "$left" python3 -m bench grid "$work/$1.toml" --model "$BASE" --data-dir "$DATA" --runs "$RUNS" \
        --workers "$2" --device auto --checkpoint-seconds 100000 --set steps="${STEPS:-1500}" ${GRAPHS:+--graphs} \
        > "$OUT/$1.log" 2>&1
    echo "$1: exit $? after $(( SECONDS_ - ends + $(date +%s) )) s"
}

adamw='"adamw", "mc_dropout", "la_kfac", "la_diag"'
core="$adamw, \"swa\", \"swag\", \"ivon_mean\", \"ivon\", \"zero_shot\", \"temperature\""
tasks=${TASKS:-'"arc_c", "wg_s", "obqa"'}
[ "$SIDE" = 0 ] || grid side "$SIDE" '"obqa"' "$adamw" &
grid core "$WORKERS" "$tasks" "$core"
wait
[ "${LAST:-1}" = 0 ] || grid ensemble "$(( WORKERS + SIDE ))" "$tasks" "$core, \"ensemble\""
[ -z "${CUDA_MPS_PIPE_DIRECTORY:-}" ] || echo quit | nvidia-cuda-mps-control

python3 -m bench status bench/grids/small.toml --model "$BASE" --data-dir "$DATA" --runs "$RUNS" \
    --set steps="${STEPS:-1500}" > "$OUT/status.txt" 2>&1
tar czf - --exclude=posterior.safetensors --exclude=work --exclude=claims -C "$RUNS" . | split -b 15000000 - "$OUT/small.tgz."
ls -la "$OUT"

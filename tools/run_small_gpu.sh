#!/usr/bin/env bash
# bench/grids/small.toml on a GPU machine without network, as far as SECONDS_ go; run it again to continue.
#
#   BASE=/tmp/base DATA=/tmp/data OUT=/tmp/out SECONDS_=480 WORKERS=10 tools/run_small_gpu.sh
#
#   BASE     folder of the base (tools/unpack_gguf.py)        DATA   local mirror of the datasets
#   OUT      where the results are packed                     RUNS   the store; default /tmp/small
#   SECONDS_ for everything but packing                       WORKERS   processes that share the GPU (about 6 GB each)
#   STEPS    other than the grid's                            TUNE_STEPS   of the candidates of `bench tune`; default 500
#   MPS=0    without NVIDIA's MPS                             FLAGS   of training; default --graphs
#
# First the search ([tune] of the grid), then ARC-C, then the rest in the grid's order: what is cut off are tasks and seeds.
set -uo pipefail
cd "$(dirname "$0")/.."
RUNS=${RUNS:-/tmp/small} SECONDS_=${SECONDS_:-480} WORKERS=${WORKERS:-10} FLAGS=${FLAGS---graphs}
mkdir -p "$OUT" "$RUNS" && work=$RUNS/grids && mkdir -p "$work"
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
ends=$(( $(date +%s) + SECONDS_ ))

if [ "${MPS:-1}" = 1 ]; then
    export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/mps && mkdir -p "$work/mps"
    nvidia-cuda-mps-control -d || unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
fi

bench() {  # NAME COMMAND FILE STEPS
    local left=$(( ends - $(date +%s) ))
    [ "$left" -gt 15 ] || return 1
    # shellcheck disable=SC2086
    timeout -s TERM -k 15 "$left" python3 -m bench "$2" "$work/$3" --model "$BASE" --data-dir "$DATA" \
        --runs "$RUNS" --workers "$WORKERS" --device auto --checkpoint-seconds 100000 --set steps="$4" $FLAGS \
        > "$OUT/$1.log" 2>&1
    echo "$1: exit $? after $(( SECONDS_ - ends + $(date +%s) )) s"
}

cp bench/grids/small.toml "$work/"
[ -s "$work/small.tuned.toml" ] || bench tune tune small.toml "${TUNE_STEPS:-500}"
cp "$work"/small.tune* "$OUT/"
sed 's/^tasks = .*/tasks = ["arc_c"]/' "$work/small.toml" > "$work/first.toml"
bench first grid first.toml "${STEPS:-1000}"
bench grid grid small.toml "${STEPS:-1000}"
[ -z "${CUDA_MPS_PIPE_DIRECTORY:-}" ] || echo quit | nvidia-cuda-mps-control

python3 -m bench status "$work/small.toml" --model "$BASE" --data-dir "$DATA" --runs "$RUNS" \
    --set steps="${STEPS:-1000}" > "$OUT/status.txt" 2>&1
tar czf - --exclude=posterior.safetensors --exclude=work --exclude=claims --exclude=mps -C "$RUNS" . |
    split -b 15000000 - "$OUT/small.tgz."
ls -la "$OUT"

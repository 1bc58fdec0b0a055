#!/usr/bin/env bash
# Trains with the plain twin: two trainer ranks under torchrun and three workers; worker 0 is
# killed once KILL_AT updates are done, and another one takes its place. Ends only what it started.
#
#   run_plain.sh FOLDER_OF_THE_BINARIES [SEED]
#
# PYTHON names an interpreter that has torch; LOGS a folder that keeps the logs and JSON lines;
# SUFFIX the binaries (_plain, or nothing for those with weightcast).
set -euo pipefail

binaries=$(cd "${1:?usage: run_plain.sh FOLDER_OF_THE_BINARIES [SEED]}" && pwd)
seed=${2:-1}
python=${PYTHON:-python3}
suffix=${SUFFIX-_plain}
kill_at=${KILL_AT:-10}
ranks=2
workers=3
export OMP_NUM_THREADS=1  # two cores are shared by all

directory=$(mktemp -d "${TMPDIR:-/tmp}/rl_loop.XXXXXX")
logs=${LOGS:-$directory}
export WEIGHTCAST_DIR=$directory/weightcast  # beside other jobs of this user
mkdir -p "$logs"
rm -f "$logs"/{metrics,trainer,worker-*}.jsonl
declare -A pids=()

cleanup() {
  kill -TERM "${pids[@]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
  rm -rf "$directory"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

start_worker() {
  "$binaries/worker$suffix" --directory "$directory" --worker "$1" --seed "$seed" \
    --trainer-ranks "$ranks" --proof "$logs/worker-$1.jsonl" >"$logs/worker-$1.log" 2>&1 &
  pids[worker$1]=$!
}

for ((worker = 0; worker < workers; ++worker)); do start_worker "$worker"; done

"$python" -m torch.distributed.run --no-python --standalone --nproc-per-node "$ranks" \
  "$binaries/trainer$suffix" --directory "$directory" --seed "$seed" \
  --metrics "$logs/metrics.jsonl" --proof "$logs/trainer.jsonl" \
  >"$logs/trainer.log" 2>&1 &
pids[trainer]=$!

updates() { if [[ -f $logs/metrics.jsonl ]]; then wc -l <"$logs/metrics.jsonl"; else echo 0; fi; }
while kill -0 "${pids[trainer]}" 2>/dev/null; do
  if (($(updates) >= kill_at)); then
    kill -KILL "${pids[worker0]}" || true
    wait "${pids[worker0]}" 2>/dev/null || true
    unset 'pids[worker0]'
    start_worker "$workers"
    break
  fi
  sleep 0.1
done

status=0
wait "${pids[trainer]}" || status=$?
unset 'pids[trainer]'
tail -n 2 "$logs/trainer.log"
exit "$status"

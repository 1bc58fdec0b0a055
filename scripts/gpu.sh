#!/usr/bin/env bash
# Tests and measures weightcast on a machine with a GPU, and writes results as JSON.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/gpu.sh [OPTIONS]            on a machine with a GPU: tests, sanitizers, benchmarks
       scripts/gpu.sh --pack FILE          elsewhere: builds, and packs what the GPU machine lacks
       scripts/gpu.sh --merge DIR          puts the results in DIR into bench/results/gpu.json and
                                           the tables of docs/benchmarks-gpu.md
options of a run:
  --from FILE     uses the programs of an archive made by --pack; else sets up and builds here
  --out DIR       where results go: gpu.json and gpu.log (default: bench/results/gpu)
  --only NAMES    only these sections; --list names them
  --minutes N     begins no section that may not end in time; those are listed as not run
  --bytes N       of the large policy (default: Qwen3-8B in BF16, 16.38 GB)
  --versions N    that a long check brings one after the other (default 1000)
  --wheels DIR    wheels of Python packages that the baseline needs (checkpoint-engine)
options of --pack:
  --no-torch      without the programs that are linked with torch
environment:
  WEIGHTCAST_PYTHON   the Python that has torch, if another than python3
TEXT
}

top=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
task=run
file=
from=
merged=
torch=enabled
run=()
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
while (($#)); do
  case $1 in
    --pack | --from | --merge | --out | --only | --minutes | --bytes | --versions | --wheels)
      (($# > 1)) || die "$1 needs a value; see scripts/gpu.sh --help"
      ;;&
    --pack) task=pack file=$2 && shift 2 ;;
    --from) from=$2 && shift 2 ;;
    --merge) task=merge merged=$2 && shift 2 ;;
    --out | --only | --minutes | --bytes | --versions | --wheels) run+=("$1" "$2") && shift 2 ;;
    --no-torch) torch=disabled && shift ;;
    --list) run+=(--list) && shift ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown argument '$1'; see scripts/gpu.sh --help" ;;
  esac
done

# Sets build: a release build of what a GPU machine runs.
build_here() {
  # shellcheck source-path=SCRIPTDIR source=lib/setup.sh
  source "$top/scripts/lib/setup.sh"
  weightcast_lock gpu
  weightcast_set_up
  build="$root/build/gpu"
  local options=(--buildtype=release -Dtests=enabled -Dbenchmarks=enabled "-Dtorch=$torch"
    "-Dpython=$tools_python")
  if [[ $torch == enabled ]]; then
    options+=(-Dexamples=enabled "-Dtorch_dir=$torch_dir")
  else
    options+=(-Dexamples=disabled)
  fi
  # Without a CUDA compiler the build would lack what this is about.
  ! grep -q "^option('cuda'" "$root/meson_options.txt" || options+=(-Dcuda=enabled)
  say "gpu: building"
  weightcast_configure "$build" "${options[@]}" || die "it could not be configured; the message is above"
  local targets
  mapfile -t targets < <("$tools_python" "$root/scripts/lib/gpu_pack.py" targets --build "$build")
  weightcast_ninja "$build" "${targets[@]}" || die "it does not build; the message is above"
}

python=${WEIGHTCAST_PYTHON:-python3}
case $task in
  pack)
    build_here
    mkdir -p "$(dirname -- "$file")"
    exec "$tools_python" "$root/scripts/lib/gpu_pack.py" pack --build "$build" --root "$root" --file "$file"
    ;;
  merge)
    exec "$python" "$top/scripts/lib/gpu_tables.py" --root "$top" --results "$merged"
    ;;
esac

command -v "$python" >/dev/null || die "no $python here; set WEIGHTCAST_PYTHON to a Python 3.10 or newer"
unpacked=
trap '[[ -z $unpacked ]] || rm -rf "$unpacked"' EXIT
if [[ " ${run[*]-} " == *" --list "* ]]; then
  kit=$top
elif [[ -n $from ]]; then
  [[ -f $from ]] || die "--from: there is no file '$from'"
  unpacked=$(mktemp -d)
  tar -xzf "$from" -C "$unpacked" || die "'$from' is no archive of scripts/gpu.sh --pack"
  kit="$unpacked/weightcast-gpu"
  [[ -f $kit/manifest.json ]] || die "'$from' is no archive of scripts/gpu.sh --pack: it has no manifest"
elif [[ -f $top/manifest.json ]]; then
  kit=$top  # this is an unpacked archive
else
  build_here
  "$tools_python" "$root/scripts/lib/gpu_pack.py" manifest --build "$build" --root "$root"
  kit=$build
  python=$torch_python
fi
status=0
"$python" "$top/scripts/lib/gpu_run.py" --kit "$kit" --root "$top" "${run[@]}" || status=$?
exit "$status"

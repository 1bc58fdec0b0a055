#!/usr/bin/env bash
# Measures weightcast over shared memory, with a policy of 135 M parameters, and over the network, up to
# 1 B parameters (needs 16 GB of available memory, and says so where they are missing). Writes
# bench/results/*.json and the tables of docs/benchmarks.md. Sets up and builds first. Some forty minutes
# on two cores, half of them waiting for given-back memory to be counted as free; --quick takes two and writes
# nothing, --only NAMES measures some of its sections. --plots draws the plots of the documents again from
# bench/results/*.json; --compare OLD.json NEW.json says what became slower beyond the noise (exit code 1).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/setup.sh"

if [[ ${1-} == --compare ]]; then
  shift
  exec python3 "$root/scripts/lib/bench_compare.py" "$@"
fi

weightcast_lock bench
weightcast_set_up
# Draws the plots.
install_into_venv plots "matplotlib==$matplotlib_version"
if [[ ${1-} == --plots ]]; then
  exec "$tools_python" "$root/scripts/lib/bench_plots.py"
fi

build="$root/build/bench"
say "bench: building"
weightcast_configure "$build" --buildtype=release -Dtests=disabled -Dtorch=enabled \
  -Dexamples=disabled -Dbenchmarks=enabled "-Dtorch_dir=$torch_dir" "-Dpython=$tools_python" ||
  fail "the benchmarks could not be configured; the message is above"
weightcast_ninja "$build" || fail "the benchmarks do not build; the message is above"

"$torch_python" "$root/scripts/lib/bench.py" --build "$build" --root "$root" "$@"
[[ " $* " == *" --quick "* ]] || exec "$tools_python" "$root/scripts/lib/bench_plots.py"

#!/usr/bin/env bash
# Measures weightcast with a policy of 135 M parameters and writes bench/results/*.json and the tables
# of docs/benchmarks.md. Sets up and builds first. Some ten minutes on two cores.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/setup.sh"

weightcast_lock bench
weightcast_set_up

build="$root/build/bench"
say "bench: building"
weightcast_configure "$build" --buildtype=release -Dtests=disabled -Dtorch=enabled \
  -Dexamples=disabled -Dbenchmarks=enabled "-Dtorch_dir=$torch_dir" "-Dpython=$tools_python" ||
  fail "the benchmarks could not be configured; the message is above"
weightcast_ninja "$build" || fail "the benchmarks do not build; the message is above"

exec "$torch_python" "$root/scripts/lib/bench.py" --build "$build" --root "$root" "$@"

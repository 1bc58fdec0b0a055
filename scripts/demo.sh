#!/usr/bin/env bash
# Trains CartPole with two trainer ranks and three rollout workers under weightcast, kills a worker
# on the way, and proves that every worker served the trainer's bits. Sets up and builds first.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/setup.sh"

weightcast_lock demo
weightcast_set_up

build="$root/build/demo"
say "demo: building"
weightcast_configure "$build" --buildtype=release -Dtests=disabled -Dtorch=enabled \
  -Dexamples=enabled "-Dtorch_dir=$torch_dir" "-Dpython=$tools_python" ||
  fail "the demo could not be configured; the message is above"
weightcast_ninja "$build" examples/rl_loop/trainer examples/rl_loop/worker src/cli/weightcast ||
  fail "the demo does not build; the message is above"

exec "$torch_python" "$root/scripts/lib/demo.py" --build "$build" "$@"

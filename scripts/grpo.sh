#!/usr/bin/env bash
# Teaches a small language model sums by GRPO: a trainer under torchrun, and rollout workers that
# generate with its latest weights, which weightcast brings them. Proves that they served its bits,
# and fails where the success on held-out problems did not rise. Sets up and builds first.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/setup.sh"

weightcast_lock demo
weightcast_set_up

build="$root/build/demo"
say "grpo: building"
weightcast_configure "$build" --buildtype=release -Dtests=disabled -Dtorch=enabled \
  -Dexamples=enabled "-Dtorch_dir=$torch_dir" "-Dpython=$tools_python" ||
  fail "the example could not be configured; the message is above"
weightcast_ninja "$build" examples/grpo/grpo_trainer examples/grpo/grpo_worker ||
  fail "the example does not build; the message is above"

exec "$torch_python" "$root/scripts/lib/grpo.py" --build "$build" "$@"

#!/usr/bin/env bash
# Sets up, builds and runs every test; the last line is `N passed, N failed, N skipped`.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/setup.sh"

usage() {
  cat <<'TEXT'
usage: scripts/test.sh [--suite NAME]... [--filter GTEST_FILTER] [--quick]
  --suite NAME   only this suite: unit, contract, simulation, integration, fault, torch, packages,
                 gpu (its cases skip where there is no device)
  --filter F     only cases that match F (GoogleTest's syntax)
  --quick        without the TSan and the ASan+UBSan builds
environment:
  WEIGHTCAST_SIM_SEEDS   simulation seeds (default 2000; 200 in the ASan build)
  WEIGHTCAST_TEST_OPTIONS  for Meson, of all builds: -Dcuda=disabled, say
  WEIGHTCAST_TEST_RELEASE  set: packages also builds the whole library as a subproject (90 s of two cores)
  WEIGHTCAST_VENV        a venv with torch, used in place of the one in .deps/
  WEIGHTCAST_PYTHON      the Python to make .deps/venv with
TEXT
}

suites=()
filter=
is_quick=no
while (($#)); do
  case $1 in
    --suite)
      (($# > 1)) || fail "--suite needs a name"
      case $2 in
        unit | contract | simulation | integration | fault | torch | packages | gpu) suites+=("$2") ;;
        *) fail "unknown suite '$2'; see scripts/test.sh --help" ;;
      esac
      shift 2
      ;;
    --filter)
      (($# > 1)) || fail "--filter needs a pattern"
      filter=$2
      shift 2
      ;;
    --quick) is_quick=yes && shift ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown argument '$1'; see scripts/test.sh --help" ;;
  esac
done

weightcast_lock tests
weightcast_set_up

summaries="$root/build/summaries"
rm -rf "$summaries"
mkdir -p "$summaries"
runner=("$tools_python" "$root/scripts/lib/run_tests.py")
seeds=${WEIGHTCAST_SIM_SEEDS:-2000}

# Writes the summary of a stage that did not come to its tests.
# no_stage LABEL failed|skipped REASON
no_stage() {
  local failed=0 skipped=0
  [[ $2 == failed ]] && failed=1 || skipped=1
  say "$1: $2: $3"
  printf '{"label": "%s", "passed": 0, "failed": %d, "skipped": %d, "failures": [%s]}\n' \
    "$1" "$failed" "$skipped" "$( ((failed)) && printf '"(%s)"' "$3")" >"$summaries/$1.json"
}

# build_stage LABEL SUITES -- MESON_OPTIONS...: builds in build/LABEL what SUITES need. Where it fails,
# the stage's summary says so.
build_stage() {
  local label=$1 build="$root/build/$1" chosen=() targets
  shift
  while [[ $1 != -- ]]; do
    chosen+=(--suite "$1")
    shift
  done
  shift

  say "$label: building"
  rm -f "$build/weightcast-first-target"
  # shellcheck disable=SC2086  # words
  weightcast_configure "$build" "$@" ${WEIGHTCAST_TEST_OPTIONS:-} || {
    no_stage "$label" failed "it could not be configured"
    return
  }
  mapfile -t targets < <("${runner[@]}" targets --build "$build" "${chosen[@]}")
  if ((${#targets[@]} == 0)) || [[ -z ${targets[0]} ]]; then
    say "$label: no test in ${chosen[*]}"
    return
  fi
  printf '%s\n' "${targets[0]}" >"$build/weightcast-first-target"
  weightcast_ninja "$build" "${targets[@]}" || no_stage "$label" failed "it does not build"
}

# test_stage LABEL SUITES: runs what build_stage built. Takes timeout_factor from its caller.
test_stage() {
  local label=$1 build="$root/build/$1" chosen=() suite wrapper='' first
  shift
  for suite in "$@"; do chosen+=(--suite "$suite"); done
  [[ ! -s $summaries/$label.json && -s $build/weightcast-first-target ]] || return 0
  first=$(<"$build/weightcast-first-target")
  if [[ $label == tsan ]] && ! tsan_wrapper "$build/$first"; then
    no_stage "$label" skipped "TSan does not start here, nor with setarch -R (vm.mmap_rnd_bits, see CONTRIBUTING.md)"
    return
  fi
  say "$label: testing"
  "${runner[@]}" run --build "$build" "${chosen[@]}" --label "$label" \
    --summary "$summaries/$label.json" --filter "$filter" --wrapper "$wrapper" \
    --timeout-factor "${timeout_factor:-1}" || true
  # A runner that broke must not pass for a stage without failures.
  [[ -s $summaries/$label.json ]] || no_stage "$label" failed "the runner broke"
}

# The tests of a stage wait more than they compute, so the next stage is built beside them, at the
# lowest priority. What it prints is shown when it is waited for.
background=
# build_beside LABEL SUITES -- MESON_OPTIONS...
build_beside() {
  (
    renice -n 19 "$BASHPID" >/dev/null
    build_stage "$@"
  ) >"$root/build/$1.stage.log" 2>&1 &
  background=$!
}
# wait_for_build LABEL
wait_for_build() {
  say "$1: building (begun before)"
  wait "$background" || no_stage "$1" failed "its build ended with status $?"
  background=
  cat "$root/build/$1.stage.log"
}
# Ends a build that is still under way, with its compilers.
end_background() {
  [[ -z $background ]] || { pkill -TERM -P "$background" && kill "$background"; } 2>/dev/null || true
}
trap end_background EXIT

# Sets wrapper of its caller. gcc 12's TSan aborts at start where vm.mmap_rnd_bits is large; without address randomization
# it runs, but containers may forbid turning that off.
tsan_wrapper() {
  local list=("$1" --gtest_list_tests)
  wrapper=
  "${list[@]}" >/dev/null 2>&1 && return 0
  wrapper="setarch $(uname -m) -R"
  # shellcheck disable=SC2086  # a command and its arguments
  $wrapper "${list[@]}" >/dev/null 2>&1
}

# The suites of a stage, as far as they were asked for.
wanted() {
  local suite
  for suite in "$@"; do
    if ((${#suites[@]} == 0)) || [[ " ${suites[*]} " == *" $suite "* ]]; then
      printf '%s\n' "$suite"
    fi
  done
}

# Compiled several files together, as nobody edits and builds again here; see CONTRIBUTING.md.
common=(-Dtests=enabled "-Dpython=$tools_python" -Dunity=on -Dunity_size=12)
# Sanitizers make gcc 12 see uninitialized members inside <regex> and <functional> (PR105562).
sanitized=(-Dtorch=disabled -Dexamples=disabled -Db_lundef=false)
# Lines are enough for a report, and half as much to write.
quiet="-Wno-maybe-uninitialized -g1"
# gcc collects its garbage from 600 MB on, not from 128: a tenth of its time.
lavish="--param=ggc-min-heapsize=600000"
[[ $("${CXX:-c++}" --version) != *clang* ]] || lavish=

mapfile -t plain < <(wanted unit contract simulation integration fault torch packages gpu)
threads=()
((${#suites[@]})) || threads=(threads)
mapfile -t core < <(wanted unit contract simulation integration)
if [[ $is_quick == yes ]]; then threads=() core=(); fi

tsan_options=("${common[@]}" "${sanitized[@]}" -Db_sanitize=thread -Doptimization=1 "-Dcpp_args=$quiet $lavish")
# Two checks of UBSan's are left out that cost a third of the build: ASan reports what null points to, too,
# and a word that is not aligned is none of x86's worries.
asan_options=("${common[@]}" "${sanitized[@]}" "-Db_sanitize=address,undefined" -Doptimization=0
  "-Dcpp_args=-fno-sanitize-recover=all -fno-sanitize=null,alignment $quiet $lavish")

build_stage test "${plain[@]}" -- --werror "${common[@]}" -Ddebug=false -Doptimization=2 "-Dcpp_args=$lavish" \
  -Dtorch=enabled "-Dtorch_dir=$torch_dir"
((!${#threads[@]})) || build_beside tsan threads -- "${tsan_options[@]}"
WEIGHTCAST_SIM_SEEDS=$seeds test_stage test "${plain[@]}"

((!${#threads[@]})) || wait_for_build tsan
((!${#core[@]})) || build_beside asan "${core[@]}" -- "${asan_options[@]}"
((!${#threads[@]})) ||
  TSAN_OPTIONS="exitcode=66:second_deadlock_stack=1:suppressions='$root/scripts/lib/tsan.supp'" \
    timeout_factor=5 test_stage tsan threads

if ((${#core[@]})); then
  wait_for_build asan
  WEIGHTCAST_SIM_SEEDS=$((seeds < 200 ? seeds : 200)) \
    ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1 UBSAN_OPTIONS=print_stacktrace=1 \
    LSAN_OPTIONS="suppressions='$root/scripts/lib/lsan.supp':print_suppressions=0" \
    timeout_factor=5 test_stage asan "${core[@]}"
fi

[[ -n $(ls "$summaries") ]] || no_stage test failed "no test matches"
"${runner[@]}" total "$summaries"/*.json

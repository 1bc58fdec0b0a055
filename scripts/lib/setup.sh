# shellcheck shell=bash
# Sourced by the scripts: brings a bare Debian 12, Ubuntu 22.04 or 24.04 to where weightcast can be
# built, once, and knows how to build it. Callers use
#   weightcast_set_up [without-torch]
#                                packages, Python, tools, torch; then these are set (with torch the last two):
#     root             the checkout
#     tools_python     Python with meson (`-m mesonbuild.mesonmain`); ninja is beside it
#     torch_python     Python with torch (`-m torch.distributed.run`)
#     torch_dir        the torch package's folder, for Meson's option
#   weightcast_configure DIR MESON_OPTIONS...
#   weightcast_ninja DIR TARGETS...
#   weightcast_lock NAME         one script of a kind at a time in a checkout
# Everything that is installed without the system's package manager goes to .deps/ in the checkout.
# Programs of a venv are called by `python -m`: their first lines hold a path that breaks when the
# checkout is moved.

readonly torch_version=2.11.0
readonly meson_version=1.10.1
readonly ninja_version=1.13.0
readonly pyyaml_version=6.0.2
readonly matplotlib_version=3.10.8

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
deps="$root/.deps"

say() { printf '== %s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# Holds until the script ends; the descriptor is closed for the programs started later by Python
# and is harmless in the others, which all end before the script does.
weightcast_lock() {
  local name=$1 descriptor
  mkdir -p "$deps"
  exec {descriptor}>"$deps/$name.lock"
  if ! flock -n "$descriptor"; then
    say "another script is busy with '$name' in this checkout; waiting for it"
    flock "$descriptor"
  fi
  lock_descriptor=$descriptor
}

# What the build and the tests use, by the names of Debian 12, Ubuntu 22.04 and 24.04.
system_packages=(
  g++ pkg-config util-linux
  libspdlog-dev libtoml11-dev libzmq3-dev cppzmq-dev libboost-dev libprotobuf-dev protobuf-compiler
  libgtest-dev nlohmann-json3-dev libxxhash-dev libcli11-dev
  cmake make binutils dpkg-dev
)

# Left out where the distribution has them not, or this user may not install: parts of the library that
# are optional go with them.
optional_packages=(prometheus-cpp-dev)

package_is_installed() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

install_system_packages() {
  local missing=() package
  if ! command -v dpkg-query >/dev/null; then
    say "no dpkg here: expecting the equivalents of ${system_packages[*]} to be installed"
    return
  fi
  for package in "$@"; do
    package_is_installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  local as_root=()
  if ((EUID != 0)); then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      fail "system packages are missing. Type this, then start the script again:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
    fi
  fi
  say "installing system packages: ${missing[*]}"
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -q)
  "${apt[@]}" update || fail "apt-get update failed; its message is above"
  "${apt[@]}" install -y --no-install-recommends "${missing[@]}" ||
    fail "apt-get could not install ${missing[*]}; its message is above"
}

install_optional_packages() {
  local package
  command -v apt-cache >/dev/null || return 0
  for package in "$@"; do
    package_is_installed "$package" && continue
    if ! apt-cache show "$package" >/dev/null 2>&1; then
      say "no package $package here: what needs it is left out"
    elif ! (install_system_packages "$package"); then
      say "$package could not be installed: what needs it is left out"
    fi
  done
}

# Prints the real path of the first Python that torch $torch_version supports and that can make a venv.
find_python() {
  local candidate
  for candidate in ${WEIGHTCAST_PYTHON:+"$WEIGHTCAST_PYTHON"} python3 /usr/bin/python3 \
    python3.13 python3.12 python3.11 python3.10; do
    command -v "$candidate" >/dev/null || continue
    "$candidate" - 2>/dev/null <<'PYTHON' && return 0
import sys
import ensurepip, venv  # Debian has them in a package of their own
if not (3, 10) <= sys.version_info[:2] <= (3, 14):
    sys.exit(1)
print(sys.executable)
PYTHON
  done
  return 1
}

# install_into_venv STAMP PACKAGES...: pinned packages into .deps/venv, with a stamp that says so.
# The stamp is written last. An interrupted installation can leave half of a package, so its mark
# makes the next start begin with an empty venv; what pip had downloaded is in its cache.
install_into_venv() {
  local stamp="$venv/weightcast-$1.stamp" wanted="${*:2}"
  [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return 0
  say "installing $wanted into .deps/venv"
  rm -f "$stamp"
  : >"$stamp.busy"
  PIP_USER=0 PYTHONPATH='' "$venv/bin/python" -m pip install --disable-pip-version-check \
    "${@:2}" ||
    fail "pip could not install $wanted; its message is above. Starting the script again resumes"
  printf '%s' "$wanted" >"$stamp"
  rm -f "$stamp.busy"
}

weightcast_set_up() {
  mkdir -p "$deps"
  weightcast_lock setup
  local setup_lock=$lock_descriptor
  venv="$deps/venv"

  install_system_packages "${system_packages[@]}"
  install_optional_packages "${optional_packages[@]}"

  if compgen -G "$venv/*.busy" >/dev/null || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    local base
    if ! base=$(find_python); then
      install_system_packages python3 python3-venv
      base=$(find_python) ||
        fail "no usable Python: expected 3.10 to 3.14 with the venv module; set WEIGHTCAST_PYTHON to one"
    fi
    say "creating .deps/venv with $base"
    rm -rf "$venv"
    "$base" -m venv "$venv" || fail "$base could not create a venv in $venv"
  fi
  tools_python="$venv/bin/python"
  # PyYAML: the tests read the manifests in docs/operators.md.
  install_into_venv tools "meson==$meson_version" "ninja==$ninja_version" "pyyaml==$pyyaml_version"
  if [[ ${1:-} == without-torch ]]; then
    exec {setup_lock}>&-
    return
  fi

  if [[ -n ${WEIGHTCAST_VENV:-} ]]; then
    torch_python="$WEIGHTCAST_VENV/bin/python"
    [[ -x $torch_python ]] ||
      fail "WEIGHTCAST_VENV is '$WEIGHTCAST_VENV', which has no bin/python; point it at a venv with torch $torch_version, or unset it to have one installed"
  else
    torch_python=$tools_python
    if [[ ! -f $venv/weightcast-torch.stamp ]]; then
      local free_mib
      free_mib=$(df --output=avail -m "$deps" | tail -n 1)
      ((free_mib >= 8000)) ||
        fail "torch needs about 8 GB of disk while it is installed; $deps has $free_mib MiB free. Free some, or set WEIGHTCAST_VENV to a venv that has torch $torch_version"
      say "torch is 0.5 GB, and 2.3 GB of libraries that it loads; this happens once and takes minutes"
    fi
    # numpy: without it torch warns at each start.
    install_into_venv torch "torch==$torch_version" numpy
  fi

  local found
  found=$("$torch_python" - <<'PYTHON'
import importlib.metadata, importlib.util, sys
spec = importlib.util.find_spec("torch")
if spec is None:
    sys.exit("no torch in " + sys.executable)
print(importlib.metadata.version("torch").split("+")[0], spec.submodule_search_locations[0], sep="\n")
PYTHON
  ) || fail "$torch_python has no torch; unset WEIGHTCAST_VENV to have torch $torch_version installed, or install it there"
  # shellcheck disable=SC2034  # for the caller
  torch_dir=${found#*$'\n'}
  if [[ ${found%%$'\n'*} != "$torch_version" ]]; then
    say "note: torch ${found%%$'\n'*} is used; weightcast is tested with $torch_version"
  fi
  exec {setup_lock}>&-
}

# As many compilers as there are cores, and memory for: a file that includes torch takes 1.7 GB.
build_jobs() {
  local available_kib by_memory cores
  available_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  by_memory=$((available_kib / 1024 / 1800))
  cores=$(nproc)
  ((by_memory < cores)) && cores=$by_memory
  ((cores > 0)) || cores=1
  echo "$cores"
}

weightcast_meson() {
  # The venv first in PATH: there are ninja and the one Python.
  PATH="$venv/bin:$PATH" PYTHONPATH='' "$tools_python" -m mesonbuild.mesonmain "$@"
}

# weightcast_configure DIR MESON_OPTIONS...: from scratch when the options or the place changed.
weightcast_configure() {
  local build=$1 wanted
  shift
  wanted=$(printf '%s\n' "$root" "$meson_version" "$@")
  if [[ ! -f $build/build.ninja || $(cat "$build/weightcast-options" 2>/dev/null) != "$wanted" ]]; then
    rm -rf "$build"
    mkdir -p "$build"
    weightcast_meson setup "$build" "$root" "$@" >"$build.log" 2>&1 || {
      cat "$build.log" >&2
      return 1
    }
    printf '%s\n' "$wanted" >"$build/weightcast-options"
  else
    # Meson's own list of targets and tests, read before the build, must follow its files.
    weightcast_ninja "$build" build.ninja >"$build.log" 2>&1 || {
      cat "$build.log" >&2
      return 1
    }
  fi
}

# weightcast_ninja DIR TARGETS...
weightcast_ninja() {
  local build=$1
  shift
  PATH="$venv/bin:$PATH" "$venv/bin/ninja" -C "$build" -j "$(build_jobs)" "$@"
}

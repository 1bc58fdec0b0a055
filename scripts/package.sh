#!/usr/bin/env bash
# Builds weightcast for the machine's own distribution and packs it: .deb files in build/packages.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib/setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib/setup.sh"

usage() {
  cat <<'TEXT'
usage: scripts/package.sh [--out FOLDER] [--maintainer 'NAME <ADDRESS>'] [MESON_OPTION...]
  --out FOLDER      where the .deb files go (default: build/packages)
  --maintainer WHO  their Maintainer field
Further arguments are Meson's, for instance -Dcuda=disabled.
TEXT
}

out="$root/build/packages"
maintainer=()
options=()
while (($#)); do
  case $1 in
    --out | --maintainer)
      (($# > 1)) || fail "$1 needs a value"
      [[ $1 == --out ]] && out=$2 || maintainer=(--maintainer "$2")
      shift 2
      ;;
    -h | --help) usage && exit 0 ;;
    -D*) options+=("$1") && shift ;;
    *) fail "unknown argument '$1'; see scripts/package.sh --help" ;;
  esac
done

weightcast_lock package
weightcast_set_up without-torch

build="$root/build/package"
say "building in build/package"
weightcast_configure "$build" --prefix /usr --buildtype release "-Dpython=$tools_python" \
  -Dtests=disabled -Dexamples=disabled -Dtorch=disabled "${options[@]}" || fail "it could not be configured"
weightcast_ninja "$build" all
"$tools_python" "$root/scripts/lib/deb.py" --build "$build" --out "$out" "${maintainer[@]}"

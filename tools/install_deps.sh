#!/usr/bin/env bash
# Installs the Debian packages that building and testing Tenax needs (Debian 12 and 13; the names are the same in both).
# Usage: tools/install_deps.sh [--dry-run]
# Only what is missing is installed; with nothing missing apt is not called at all, so it works without network then.
set -euo pipefail

packages=(
  # compiler and build
  g++ cmake ninja-build ccache mold pkg-config git python3
  # actors, messages, store, collectives
  libcaf-dev libzmq3-dev cppzmq-dev libcapnp-dev capnproto librocksdb-dev libgloo-dev
  # configuration, command line, log, HTTP
  libtomlplusplus-dev libcli11-dev libspdlog-dev libfmt-dev libcpp-httplib-dev nlohmann-json3-dev
  libexpected-dev libxxhash-dev libzstd-dev libssl-dev zlib1g-dev
  # librocksdb-dev and libcpp-httplib-dev bring their compression libraries themselves
  # tests and benchmarks
  libgtest-dev libbenchmark-dev iproute2
  # the bundle
  zstd
)

if [[ $# -gt 1 || ( $# -eq 1 && $1 != --dry-run ) ]]; then
  echo "usage: tools/install_deps.sh [--dry-run]" >&2
  exit 2
fi
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_deps: this is not a Debian system; install the equivalents of: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == *installed* && $state != *not-installed* ]] || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "install_deps: all ${#packages[@]} packages are installed"
  exit 0
fi
echo "install_deps: missing: ${missing[*]}"
[[ ${1:-} == --dry-run ]] && exit 0

as_root=(env DEBIAN_FRONTEND=noninteractive)
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps: not root and there is no sudo; as root run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo "${as_root[@]}")
fi

run() {
  echo "+ $*"
  "$@" </dev/null
}
run "${as_root[@]}" apt-get update -qq
run "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}"

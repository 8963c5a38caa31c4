#!/usr/bin/env bash
# Configures a preset of CMakePresets.json and builds it; prints each command it runs.
# Usage: tools/build.sh PRESET [-DNAME=VALUE ...] [TARGET ...]      (no target: everything)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -lt 1 || $1 == -* ]]; then
  echo "usage: tools/build.sh PRESET [-DNAME=VALUE ...] [TARGET ...]" >&2
  exit 2
fi
preset=$1
shift
definitions=()
targets=()
for argument in "$@"; do
  case $argument in
    -D*) definitions+=("$argument") ;;
    *) targets+=("--target" "$argument") ;;
  esac
done

# The compiler cache stays inside the clone unless the caller has one. Paths are hashed relative to the clone, so a
# cache shared between clones hits.
export CCACHE_DIR=${CCACHE_DIR:-$PWD/build/ccache}
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

# One compiler needs up to 2 GB: as many as there are cores, but not more than fit in memory.
jobs=$(nproc)
memory_gb=$(awk '/^MemAvailable:/ {print int($2 / 2097152)}' /proc/meminfo)
if ((memory_gb < jobs)); then jobs=$((memory_gb > 1 ? memory_gb : 1)); fi

run() {
  echo "+ $*"
  "$@"
}
run cmake --preset "$preset" "${definitions[@]}"
run cmake --build --preset "$preset" --parallel "$jobs" "${targets[@]}"

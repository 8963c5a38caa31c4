#!/usr/bin/env bash
# Proves that a fresh clone works on a bare Debian: makes a minimal chroot of RELEASE with debootstrap, copies the
# clone's files in (committed or not; no build folder, no .git) and runs ./quickstart there as root.
#
# Usage: tools/chroot_check.sh RELEASE [COMMAND [ARGUMENT ...]]
#   RELEASE   bookworm (Debian 12) or trixie (Debian 13)
#   COMMAND   instead of ./quickstart, for example ./check
# Environment: DEBIAN_MIRROR (default http://deb.debian.org/debian), TMPDIR (about 4 GB are needed there),
#   KEEP_CHROOT=1 leaves the folder for a look.
#
# Needs root and the packages debootstrap and debian-archive-keyring; not part of ./check. All mounts and processes
# live in namespaces of their own and end with them, even if this script is killed; the folder is removed at exit.
# Exit status: the command's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ $# -lt 1 || $1 == -* ]]; then
  sed -n '2,15s/^# \{0,1\}//p' tools/chroot_check.sh >&2
  exit 2
fi
release=$1
shift
command=("$@")
[[ ${#command[@]} -gt 0 ]] || command=(./quickstart)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

if [[ $(id -u) -ne 0 ]]; then
  echo "chroot_check: a chroot needs root" >&2
  exit 1
fi
if ! command -v debootstrap >/dev/null; then
  echo "chroot_check: debootstrap is missing; apt-get install debootstrap" >&2
  exit 1
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/tenax-chroot-$release.XXXXXX")
chmod 755 "$folder"  # apt downloads as a user of its own
clean_up() {
  if [[ ${KEEP_CHROOT:-} == 1 ]]; then
    echo "chroot_check: kept $folder"
  else
    rm -rf --one-file-system "$folder"
  fi
}
trap clean_up EXIT
trap 'exit 130' INT TERM

echo "chroot_check: debootstrap $release from $mirror into $folder"
if ! debootstrap --variant=minbase "$release" "$folder" "$mirror" >"$folder.log" 2>&1; then
  tail -n 20 "$folder.log" >&2
  rm -f "$folder.log"
  exit 1
fi
rm -f "$folder.log"

mkdir -p "$folder/root/tenax" "$folder/dev/shm"
if [[ -e .git ]]; then
  git ls-files -co --exclude-standard -z
else
  find . -path './build*' -prune -o -path ./runs -prune -o -type f -print0
fi | while IFS= read -r -d '' file; do [[ -e $file ]] && printf '%s\0' "$file"; done |
  tar --null -T - -cf - | tar -C "$folder/root/tenax" -xf -

# Runs inside the namespaces; $1 is the chroot, the rest the command.
inside='
  set -e
  mount -t proc proc "$1/proc"
  mount -t tmpfs -o mode=1777 tmpfs "$1/dev/shm"
  chroot=$1
  shift
  exec chroot "$chroot" env -i HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    bash -c "cd /root/tenax && exec \"\$@\"" bash "$@"
'
echo "chroot_check: ${command[*]} on $release"
start=$SECONDS
status=0
unshare --mount --pid --fork --kill-child bash -c "$inside" bash "$folder" "${command[@]}" </dev/null || status=$?
echo "chroot_check: ${command[*]} on Debian $(cat "$folder/etc/debian_version") exited $status after $((SECONDS - start)) s"
exit "$status"

#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# build-debian.sh SUITE KERNEL OUT
#
# Build xfi_task.ko for Debian's kernel KERNEL (as `uname -r` prints it) with the
# headers and the compiler of that Debian release, and copy it to OUT. Both are
# unpacked for this and thrown away. Runs as any user that mmdebstrap supports;
# about 40 s, 600 MB of disk while it runs.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname -- "$(dirname -- "$here")")
# shellcheck disable=SC1091,SC2154 # it is checked by itself
. "$repo/ansible/lib/debian-source.sh"

say() { printf 'kmod: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
[[ $# -eq 3 ]] || die "usage: $0 SUITE KERNEL OUT"
suite=$1 kernel=$2 out=$3
for tool in mmdebstrap unshare chroot; do
    command -v "$tool" >/dev/null || die "needs the program $tool"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/xfi-kmod.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
tree=$work/tree

say "unpacking Debian $suite's headers of $kernel and its compiler"
debian_sources "$suite" >"$work/sources.list"
mode=() user=(--map-root-user)
[[ $(id -u) -ne 0 ]] || mode=(--mode=root) user=()
mmdebstrap --quiet --variant=extract "${mode[@]}" "$merge_usr" \
    --include="linux-headers-$kernel,make,dash,coreutils,sed,grep,mawk,findutils,base-files" \
    --dpkgopt='path-exclude=/usr/share/*' \
    --aptopt='Acquire::Languages "none"' \
    --aptopt='APT::Install-Recommends "false"' \
    "$suite" "$tree" "$work/sources.list" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; die "the headers could not be had"; }

mkdir -p "$tree"/{kmod,dev,tmp}
cp "$here"/{Makefile,xfi_task.c,xfi_task.h} "$tree/kmod/"
# No package was configured: names that their scripts would have made.
ln -sfn mawk "$tree/usr/bin/awk"
[[ -e $tree/usr/bin/sh ]] || ln -s dash "$tree/usr/bin/sh"
: >"$tree/dev/null"

say "building"
# shellcheck disable=SC2016 # the inner shell expands these
unshare --mount "${user[@]}" sh -c '
    mount --bind /dev/null "$1/dev/null" &&
        chroot "$1" /usr/bin/make -C /kmod "KDIR=/usr/src/linux-headers-$2" &&
        exec chroot "$1" /usr/bin/strip --strip-debug /kmod/xfi_task.ko
' sh "$tree" "$kernel" >"$work/log" 2>&1 ||
    { tail -n 30 "$work/log" >&2; die "the module does not build"; }
grep -i warning "$work/log" >&2 || true
mkdir -p "$(dirname -- "$out")"
module=$tree/kmod/xfi_task.ko
[[ -s $module ]] || die "the build made no module"
install -m 0644 "$module" "$out"
say "done: $out"

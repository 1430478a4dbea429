#!/bin/sh
# build.sh OUT: build the known-answer guest's /init. Needs gcc only.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
# No PIE: the ranges that the guest announces are the same in every build.
# General registers only, so that nothing but the two loops matters.
exec "${CC:-gcc}" -O2 -std=gnu11 -Wall -Wextra -Werror \
    -ffreestanding -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables \
    -fno-tree-loop-distribute-patterns -fcf-protection=none -mgeneral-regs-only \
    -static -no-pie -nostdlib -Wl,--build-id=none -Wl,-z,noexecstack \
    -I"$here/../../xen-patches/include" -s -o "$1" "$here/kat.c" "$here/kat.S"

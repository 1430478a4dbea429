#!/bin/sh
# build-task.sh OUT: build the known-answer process. Needs gcc only.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 OUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
# As for the known-answer guest: see build.sh.
exec "${CC:-gcc}" -O2 -std=gnu11 -Wall -Wextra -Werror \
    -ffreestanding -fno-pie -fno-stack-protector -fno-asynchronous-unwind-tables \
    -fno-tree-loop-distribute-patterns -fcf-protection=none -mgeneral-regs-only \
    -static -no-pie -nostdlib -Wl,--build-id=none -Wl,-z,noexecstack \
    -s -o "$1" "$here/task.c" "$here/task.S"

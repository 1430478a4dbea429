#!/bin/sh
# build.sh OUT INCLUDE: build the fuzzer for dom0, with the headers of the Xen
# that is there (target/xen/<version>/include). Static: dom0's libraries may differ.
set -eu
[ $# -eq 2 ] || { echo "usage: $0 OUT INCLUDE" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
exec "${CC:-gcc}" -O2 -std=gnu11 -Wall -Wextra -Werror -static \
    -s -o "$1" -I"$2" -I"$here/../kat" "$here/fuzz.c" "$here/races.c"

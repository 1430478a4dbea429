#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Test the patches without booting them; a few seconds.
#
#   xen-patches/tests/run.sh [version...]     default: all there are
#
# Each test passes, fails, or is skipped with the reason. Exit status: 0, or 1 if
# any failed.
set -euo pipefail
shopt -s nullglob
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
patches=$(dirname -- "$here")
repo=$(dirname -- "$patches")
sources=${XFI_XEN_SOURCES-$repo/target/xen/sources}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

failed=0
pass() { echo "ok      $1"; }
fail() { echo "FAILED  $1${2:+: $2}"; failed=1; }
skip() { echo "skipped $1: $2"; }
check() { # <name> <command...>
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then pass "$name"; else
        fail "$name"
        sed 's/^/        /' "$work/log" | tail -n 20
    fi
}

# The header, as callers in C and C++ have it.
strict=(-Wall -Wextra -Werror -Wpadded -pedantic-errors -Wno-long-long -I"$patches/include/xen" -o /dev/null)
check "header: C99" gcc -std=c99 "${strict[@]}" -c "$here/header.c"
if command -v g++ >/dev/null; then
    check "header: C++98" g++ -std=c++98 "${strict[@]}" -x c++ -c "$here/header.c"
    check "header: C++20" g++ -std=c++20 "${strict[@]}" -x c++ -c "$here/header.c"
else
    skip "header: C++" "g++ is not installed"
fi
# Freestanding: no 32-bit C library is needed for it.
if echo '#include <stdint.h>' | gcc -m32 -ffreestanding -fsyntax-only -x c - 2>/dev/null; then
    check "header: 32-bit callers" gcc -m32 -malign-double -ffreestanding -std=c99 "${strict[@]}" -c "$here/header.c"
    check "header: 32-bit callers, i386 alignment" gcc -m32 -ffreestanding -std=c99 "${strict[@]}" -c "$here/header.c"
else
    skip "header: 32-bit callers" "gcc -m32 doesn't work here"
fi

versions=("$@")
if ((!$#)); then
    versions=("$patches"/*/series)
    versions=("${versions[@]%/series}")
    versions=("${versions[@]##*/}")
fi
for version in "${versions[@]}"; do
    dir=$patches/$version
    series=$dir/series
    [[ $version =~ ^[0-9]+\.[0-9]+$ && -e $series ]] || {
        fail "there are patches for Xen '$version'"
        continue
    }
    mapfile -t names < <(sed 's/[[:space:]].*//; /^#/d; /^$/d' "$series")

    unlisted=()
    for file in "$dir"/*.patch; do
        [[ " ${names[*]} " == *" ${file##*/} "* ]] || unlisted+=("${file##*/}")
    done
    if ((${#unlisted[@]})); then
        fail "$version: every patch is in the series" "${unlisted[*]}"
    else
        pass "$version: every patch is in the series"
    fi

    bad=()
    for name in "${names[@]}"; do
        # What it does and why, before the diff; no trailing white space.
        if [[ $(sed '/^---$/,$d' "$dir/$name" | wc -l) -lt 8 ]] ||
            ! grep -q '^Subject: ' "$dir/$name" || ! grep -q '^Signed-off-by: ' "$dir/$name" ||
            grep -qE '^\+.*[[:space:]]$' "$dir/$name"; then
            bad+=("$name")
        fi
    done
    if ((${#bad[@]})); then
        fail "$version: patches have headers and no trailing space" "${bad[*]}"
    else
        pass "$version: patches have headers and no trailing space"
    fi

    orig=$(awk '/\.orig\.tar/ { print $3 }' "$dir/sources")
    if [[ ! -e $sources/$orig ]]; then
        skip "$version: the series applies" "no $orig; xen-patches/build.sh $version fetches it"
        continue
    fi
    src=$work/src-$version
    mkdir "$src"
    check "$version: the sources are the pinned ones" \
        sha256sum --check --strict <(awk -v d="$sources" -v o="$orig" '$3 == o { print $1 "  " d "/" $3 }' "$dir/sources")
    tar -xJf "$sources/$orig" -C "$src" --strip-components=1
    for name in "${names[@]}"; do
        check "$version: $name applies without fuzz" \
            patch --directory="$src" --strip=1 --forward --fuzz=0 --no-backup-if-mismatch --input="$dir/$name"
    done
    check "$version: include/xen/xfi.h is the one the series adds" \
        cmp "$src/xen/include/public/xfi.h" "$patches/include/xen/xfi.h"

    built=$repo/target/xen/$version
    if [[ -e $built/xen-syms ]]; then
        if count=$("$patches/count-disarmed.sh" "$built/xen-syms") &&
            [[ $count =~ \"max\":([0-9]+),\"hypercall\":([0-9]+) ]] &&
            ((BASH_REMATCH[1] <= 8 && BASH_REMATCH[2] <= 8)); then
            pass "$version: at most 8 instructions when disarmed, on a switch and on a hypercall: $count"
        else
            fail "$version: at most 8 instructions when disarmed, on a switch and on a hypercall" "${count-}"
        fi
    else
        skip "$version: instructions when disarmed" "xen-patches/build.sh $version hasn't run"
    fi
    if [[ -e $built/include/xenctrl.h ]]; then
        check "$version: libxenctrl's structures are those the toolstack knows" gcc -std=gnu11 -Wall -Wextra -Werror \
            -I"$built/include" -fsyntax-only "$here/libxenctrl.c"
    else
        skip "$version: libxenctrl's structures" "xen-patches/build.sh $version hasn't run"
    fi
done

# The payload, as Xen's loader is going to look at it.
# shellcheck disable=SC2317 # called by check
payload_is_sound() { # <directory>
    local file=$1/xfi.livepatch section id
    for section in .livepatch.funcs .livepatch.depends .livepatch.xen_depends .note.gnu.build-id \
        .livepatch.hooks.load .livepatch.hooks.prerevert .livepatch.hooks.unload; do
        (($(readelf -SW "$file" | grep -cF " $section ") == 1)) || { echo "$section isn't there once"; return 1; }
    done
    # Three functions of 104 bytes each, in one array.
    readelf -SW "$file" | grep -qE ' \.livepatch\.funcs .* 000138 ' || { echo "not three functions"; return 1; }
    id=$(readelf -n "$1/xen" | sed -n 's/.*Build ID: //p')
    [[ $(readelf -x .livepatch.xen_depends "$file" | awk '/^ *0x/ { printf "%s%s%s%s", $2, $3, $4, $5 }') == *"$id"* ]] ||
        { echo "not for build-id $id"; return 1; }
    # Relocations that Xen's loader knows.
    if readelf -rW "$file" | awk '/R_X86/ { print $3 }' | grep -vxE 'R_X86_64_(64|PC32|PLT32)'; then return 1; fi
    # One name twice, in Xen and here, is refused.
    if comm -12 <(nm --defined-only "$file" | awk '{ print $3 }' | sort -u) \
        <(awk '{ print $3 }' "$1/xen.symbols" | sort -u) | grep .; then return 1; fi
}
for version in "${versions[@]}"; do
    [[ -e $patches/$version/stock ]] || continue
    built=$repo/target/xen/$version-stock
    if [[ -e $built/xfi.livepatch ]]; then
        check "$version: the livepatch is one that Debian's Xen takes" payload_is_sound "$built"
    else
        skip "$version: the livepatch" "xen-patches/livepatch/build.sh hasn't run"
    fi
done

if command -v shellcheck >/dev/null; then
    check "shellcheck" shellcheck "$patches/build.sh" "$patches/count-disarmed.sh" "$here/run.sh" \
        "$patches/lib/build.sh" "$patches/livepatch/build.sh"
else
    skip "shellcheck" "not installed"
fi
exit $failed

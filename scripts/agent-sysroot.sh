#!/bin/bash
# Prints what the linker needs, so that what is linked on this machine runs on
# Debian 12, too: nothing where this machine's C library is no newer; else a
# --sysroot with Debian 12's, made in target/ once (30 s, 150 MB).
set -euo pipefail

# Debian 12's.
floor=2.36
here=$(getconf GNU_LIBC_VERSION)
here=${here##* }
[[ $(printf '%s\n' "$here" "$floor" | sort -V | tail -n 1) != "$floor" ]] || exit 0

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
root=$repo/target/agent-sysroot
if [[ ! -d $root ]]; then
    # shellcheck disable=SC1091 # it is checked by itself
    . "$repo/ansible/lib/debian-source.sh"
    mkdir -p "$repo/target"
    work=$(mktemp -d "$repo/target/.sysroot.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    debian_sources bookworm >"$work/sources.list"
    mode=()
    [[ $(id -u) -ne 0 ]] || mode=(--mode=root)
    # shellcheck disable=SC2154 # debian-source.sh has it
    mmdebstrap --quiet --variant=extract "${mode[@]}" "$merge_usr" \
        --include=libc6-dev,libvirt-dev \
        --dpkgopt='path-exclude=/usr/share/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --aptopt='Acquire::Languages "none"' \
        --aptopt='APT::Install-Recommends "false"' \
        bookworm "$work/root" "$work/sources.list" >"$work/log" 2>&1 || {
        tail -n 20 "$work/log" >&2
        echo "build-agent: error: Debian 12's C library could not be had (above)" >&2
        exit 1
    }
    chmod 0755 "$work/root"
    mv -T "$work/root" "$root"
fi
printf -- '-C link-arg=--sysroot=%s' "$root"

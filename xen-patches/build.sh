#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Build the patched Xen: the hypervisor, and libxenctrl with the libraries under it.
#
#   xen-patches/build.sh [4.20]           build, unless it is there already
#   xen-patches/build.sh --print [4.20]   print the result's directory, build nothing
#
# Result: target/xen/4.20-<hash>/ and the link target/xen/4.20 to it:
#
#   xen           uncompressed multiboot image, to be booted
#   xen-syms      the same with symbols and debug information
#   xen.symbols   sorted nm of it
#   xen.config    the hypervisor's configuration
#   include/      xenctrl.h, xencall.h and so on; public headers in include/xen/
#   lib/          libxenctrl.so and the libraries it needs
#   manifest.json versions, SHA-256 of the files, the hypervisor's build-id
#
# The hash is over the series, the pinned sources and this script. A result
# appears under its name only when whole; a killed build leaves nothing that a
# later one would trust.
#
# The sources come from the Debian mirror this machine's apt uses, and are
# checked against the SHA-256 in <version>/sources. XFI_XEN_SOURCES=<directory>
# has them taken from there; XFI_DEBIAN_MIRROR=<uri> names another mirror.
set -euo pipefail
shopt -s nullglob
export LC_ALL=C

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname -- "$here")
target=$repo/target/xen

started=$SECONDS
say() { printf 'xen-build: [%3ds] %s\n' $((SECONDS - started)) "$*" >&2; }
die() { say "error: $*"; exit 1; }
usage() { die "usage: build.sh [--print] [4.20]"; }

print=
if [[ ${1-} == --print ]]; then
    print=1
    shift
fi
(($# <= 1)) || usage
version=${1-4.20}
series=$here/$version
[[ $version =~ ^[0-9]+\.[0-9]+$ && -e $series/series ]] || {
    have=("$here"/*/series)
    have=("${have[@]%/series}")
    die "no patches for Xen '$version'; there are: ${have[*]##*/}"
}

content_hash() {
    (
        cd "$here"
        # Relative names and the content; the mode matters to nobody.
        sha256sum build.sh "$version/series" "$version/sources"
        while read -r patch _; do
            [[ -z $patch || $patch == '#'* ]] || sha256sum "$version/$patch"
        done <"$version/series"
    ) | sha256sum | cut -c1-12
}

hash=$(content_hash)
name=$version-$hash
result=$target/$name
if [[ $print ]]; then
    printf '%s\n' "$result"
    exit 0
fi

# The link is replaced in one step.
link_result() {
    ln -sfn "$name" "$target/.link.$$"
    mv -T "$target/.link.$$" "$target/$version"
}
done_already() {
    [[ -e $result/manifest.json ]] || return 1
    link_result
    say "$result is there already; nothing to do"
}

mkdir -p "$target"
if done_already; then exit 0; fi

say "building Xen $version with our patches: about 2 minutes on 2 cores, 350 MB of disk while it runs"

missing=()
for tool in gcc ld make bison flex python3 perl patch tar xz pkg-config sha256sum nm readelf objcopy; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
((${#missing[@]} == 0)) || die "not installed: ${missing[*]} (see xen-patches/README.md for the packages)"

# One build at a time: another one may well be building the same.
exec 9>"$target/.lock"
if ! flock -n 9; then
    say "waiting for another build in $target"
    flock 9
    if done_already; then exit 0; fi
fi
# Left by builds that were killed: the lock is ours, nobody uses them.
rm -rf "$target"/.build.*
work=$(mktemp -d "$target/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- sources ---------------------------------------------------------------

sources=$target/sources
mkdir -p "$sources"
# shellcheck source=lib/sources.sh
. "$here/lib/sources.sh"

orig=
debian=
while read -r sum _ file; do
    case $sum in '' | '#'*) continue ;; esac
    fetch "$file" "$sum"
    case $file in
    *.orig.tar.xz) orig=$file ;;
    *.debian.tar.xz) debian=$file ;;
    esac
done <"$series/sources"
[[ $orig && $debian ]] || die "$series/sources doesn't name both tarballs"

src=$work/src
mkdir "$src"
tar -xJf "$sources/$orig" -C "$src" --strip-components=1
tar -xJf "$sources/$debian" -C "$src" debian/xen-kconfig

say "applying the series"
while read -r patch _; do
    [[ -z $patch || $patch == '#'* ]] && continue
    patch --directory="$src" --strip=1 --forward --fuzz=0 --silent --no-backup-if-mismatch \
        <"$series/$patch" >&2 || die "$version/$patch doesn't apply"
done <"$series/series"

# --- build -----------------------------------------------------------------

jobs=$(nproc)
# Nothing of the caller's environment, and nothing of this machine's in the
# result: the same input makes the same hypervisor, with the same build-id.
unset MAKEFLAGS MFLAGS MAKELEVEL CFLAGS CPPFLAGS CXXFLAGS LDFLAGS ARCH CROSS_COMPILE CC LD
export XEN_BUILD_DATE="series $hash" XEN_BUILD_TIME='' XEN_WHOAMI=xfi XEN_DOMAIN=xfi XEN_BUILD_HOST=xfi
export SOURCE_DATE_EPOCH=0
export PYTHON=/usr/bin/python3
[[ -x $PYTHON ]] || PYTHON=$(command -v python3)

run() { # <name> <command...>: quiet unless it fails
    local log=$work/$1.log
    shift
    "$@" >"$log" 2>&1 </dev/null || {
        tail -n 40 "$log" >&2
        die "failed: $*"
    }
}

# What Xen calls its changeset: not that of the repository around it.
echo "${orig%.orig.tar.xz} with xfi series $hash" >"$src/.scmversion"

say "hypervisor: make -j$jobs (most of the time)"
cp "$src/debian/xen-kconfig" "$src/xen/.config"
cat >>"$src/xen/.config" <<'CONFIG'
CONFIG_LIVEPATCH=y
CONFIG_DEBUG_INFO=y
CONFIG_XFI=y
CONFIG
run config make -C "$src/xen" olddefconfig
grep -q '^CONFIG_XFI=y' "$src/xen/.config" || die "the configuration has lost CONFIG_XFI"
prefix_map="-ffile-prefix-map=$src=. -fdebug-prefix-map=$src=."
# -g, as 4.17 has CONFIG_DEBUG_INFO for experts alone.
run xen make -C "$src/xen" -j"$jobs" EXTRA_CFLAGS_XEN_CORE="-g $prefix_map"

say "tools: configure"
# iasl and qemu are for libraries above libxenctrl.
run configure env -C "$src" IASL=/bin/true ./configure \
    --prefix=/usr --libdir=/usr/lib \
    --disable-xen --disable-stubdom --disable-docs \
    --disable-rombios --disable-seabios --disable-ovmf --disable-ocamltools \
    --disable-golang --disable-pvshim --disable-systemd --disable-pygrub \
    --disable-xsmpolicy --with-system-qemu=/usr/bin/true
say "tools: libxenctrl and the libraries under it"
stage=$work/stage
tools=(make -j"$jobs" DESTDIR="$stage" EXTRA_CFLAGS_XEN_TOOLS="$prefix_map" debug=n)
run headers "${tools[@]}" -C "$src/tools/include" install
for lib in toolcore toollog call evtchn gnttab foreignmemory devicemodel ctrl; do
    run "lib-$lib" "${tools[@]}" -C "$src/tools/libs/$lib" install
done

# --- result ----------------------------------------------------------------

say "installing"
out=$work/out
mkdir -p "$out/lib"
install -m 0644 "$src/xen/xen" "$out/xen"
install -m 0644 "$src/xen/xen-syms" "$out/xen-syms"
install -m 0644 "$src/xen/.config" "$out/xen.config"
nm "$out/xen-syms" | sort >"$out/xen.symbols"
mv "$stage/usr/include" "$out/include"
cp -a "$stage"/usr/lib/*.so* "$out/lib/"
build_id=$(readelf -n "$out/xen-syms" | sed -n 's/.*Build ID: \([0-9a-f]*\).*/\1/p' | head -n1)
[[ $build_id ]] || die "the hypervisor has no build-id"
compiler=$(gcc --version | head -n1)

"$PYTHON" - "$out" "$version" "$hash" "$build_id" "$orig" "$compiler" "$series" <<'PYTHON'
import hashlib, json, os, re, sys

out, version, digest, build_id, orig, compiler, series = sys.argv[1:]

def sha256(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()

def abi():
    with open(out + "/include/xen/xfi.h") as f:
        return int(re.search(r"#define XFI_ABI_VERSION\s+(\d+)", f.read()).group(1))

files = {}
for top, dirs, names in os.walk(out):
    dirs.sort()
    for name in sorted(names):
        path = os.path.join(top, name)
        rel = os.path.relpath(path, out)
        if not os.path.islink(path) and not (rel.startswith("include/") and rel != "include/xen/xfi.h"):
            files[rel] = sha256(path)
with open(series + "/series") as f:
    patches = [line.split()[0] for line in f if line.strip() and not line.startswith("#")]
manifest = {
    "format": 1,
    "xen": version,
    "source": orig,
    "inputs": digest,
    "build_id": build_id,
    "xfi_abi_version": abi(),
    "compiler": compiler,
    "patches": {p: sha256(f"{series}/{p}") for p in patches},
    "sha256": files,
}
with open(out + "/manifest.json", "w") as f:
    json.dump(manifest, f, indent=2)
    f.write("\n")
PYTHON

# What is there can't be whole, or it had been used above.
rm -rf "$result"
chmod 0755 "$out"
mv -T "$out" "$result"
link_result
say "done: $result, build-id $build_id"

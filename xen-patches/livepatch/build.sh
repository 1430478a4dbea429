#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Build the livepatch for Debian's own Xen, and have that Xen at hand.
#
#   xen-patches/livepatch/build.sh [4.20]           build, unless it is there already
#   xen-patches/livepatch/build.sh --print [4.20]   print the result's directory, build nothing
#
# Result: target/xen/4.20-stock-<hash>/ and the link target/xen/4.20-stock to it:
#
#   xen             Debian's binary, uncompressed multiboot image, to be booted
#   xen.symbols     sorted nm of it
#   xen.config      its configuration
#   xfi.livepatch   the payload: xen-livepatch load xfi xfi.livepatch
#   manifest.json   versions, SHA-256 of the files, that Xen's build-id
#
# The payload is compiled from the series' own xfi.c, in Debian's source without
# the series, with Debian's configuration: structures are as in that binary.
# Takes half a minute, of which the downloads are most; the same tools as for
# build.sh, and dpkg-deb. XFI_XEN_SOURCES and XFI_DEBIAN_MIRROR as there, for the
# packages, too.
set -euo pipefail
shopt -s nullglob

# shellcheck disable=SC2034 # the library's
what=livepatch
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../lib/build.sh
. "$here/../lib/build.sh"
arguments stock "$@"

hash=$(cd "$patches" && sha256sum livepatch/* lib/build.sh include/xen/xfi-livepatch.h \
    "$version/series" "$version/sources" "$version/stock" "${names[@]/#/$version/}" |
    sha256sum | cut -c1-12)
begin "$version-stock" "$hash" objdump dpkg-deb

fetch_all "$series/sources" "$series/stock"
[[ $orig && $deb && $dbg ]] || die "$version/sources and $version/stock don't name the tarball and both packages"

say "unpacking"
src=$work/src
patched=$work/patched
mkdir "$src" "$patched"
tar -xJf "$sources/$orig" -C "$src" --strip-components=1
tar -xJf "$sources/$orig" -C "$patched" --strip-components=1
apply_series "$patched"
dpkg-deb -x "$sources/$deb" "$work/stock"
dpkg-deb -x "$sources/$dbg" "$work/stock"

out=$work/out
syms=$work/stock/usr/lib/debug/boot/xen-syms-$version-amd64
gzip -dc "$work/stock/boot/xen-$version-amd64.gz" >"$out/xen"
cp "$work/stock/boot/xen-$version-amd64.config" "$out/xen.config"
nm "$syms" | sort >"$out/xen.symbols"

id=$(build_id "$out/xen")
[[ $id ]] || die "$deb: the hypervisor has no build-id"
[[ $id == "$(build_id "$syms")" ]] || die "$dbg isn't of the build of $deb"
for option in CONFIG_LIVEPATCH CONFIG_PV CONFIG_HVM; do
    grep -q "^$option=y" "$out/xen.config" || die "Debian's Xen is built without $option"
done
if grep -q '^CONFIG_XSM=y' "$out/xen.config"; then
    die "Debian's Xen is built with CONFIG_XSM: there is no unused hypercall"
fi

# --- build -----------------------------------------------------------------

say "compiling"
arch=xen/arch/x86
cp "$patched/$arch"/xfi*.c "$src/$arch/"
for file in $arch/include/asm/xfi.h xen/include/public/xfi.h; do
    cp "$patched/$file" "$src/$file"
done
cp "$patches/include/xen/xfi-livepatch.h" "$src/xen/include/public/"
cp "$here/xfi-livepatch.c" "$src/$arch/"
"$PYTHON" "$here/generate.py" "$src" "$syms" >"$src/$arch/xfi-livepatch-gen.h"
cp "$out/xen.config" "$src/xen/.config"
run config make -C "$src/xen" olddefconfig
# Another compiler may lack what an option needs, and structures would differ.
options() { grep -v -e '^CONFIG_GCC_VERSION=' -e '^#.* Configuration$' "$1"; }
diff <(options "$out/xen.config") <(options "$src/xen/.config") >&2 ||
    die "Debian's configuration of Xen can't be had with $(gcc --version | head -n1)"
# xfi.c is included by xfi-livepatch.c, which needs what is static there.
objects=()
for file in "$src/$arch"/xfi*.c; do
    name_c=${file##*/}
    [[ $name_c == xfi.c ]] || objects+=("${name_c%.c}.o")
done
run objects make -C "$src/xen" -f "$here/payload.mk" xfi-livepatch XFI_OBJECTS="${objects[*]}" \
    EXTRA_CFLAGS_XEN_CORE="-DCONFIG_XFI=1 -ffile-prefix-map=$src=. -fdebug-prefix-map=$src=."

say "linking"
cd "$work"
# Xen knows its own symbols by name, local ones, too, and takes none twice.
for object in "${objects[@]}"; do
    nm --defined-only "$src/$arch/$object" |
        awk '$2 ~ /[bdrt]/ && $3 !~ /^\.L/ { print $3, "xfi." $3 }' | sort -u >renamed
    objcopy --strip-debug --remove-section=.discard --redefine-syms=renamed "$src/$arch/$object" "$object"
done
objcopy -O binary --only-section=.note.gnu.build-id "$syms" build-id.bin
for section in depends xen_depends; do
    objcopy -I binary -O elf64-x86-64 -B i386:x86-64 -S \
        --rename-section=.data=.livepatch."$section",alloc,load,readonly,data,contents \
        build-id.bin "$section.o"
done
ld -r -z noexecstack --build-id=sha1 -o "$out/xfi.livepatch" "${objects[@]}" depends.o xen_depends.o
objcopy --set-section-flags .livepatch.funcs=alloc,readonly "$out/xfi.livepatch"

# Xen would refuse it later, and say so on its console only.
unknown=$(comm -23 <(nm --undefined-only "$out/xfi.livepatch" | awk '{ print $2 }' | sort -u) \
    <(awk '{ print $3 }' "$out/xen.symbols" | sort -u))
[[ -z $unknown ]] || die "the payload needs what Debian's Xen doesn't have: ${unknown//$'\n'/ }"

# --- result ----------------------------------------------------------------

"$PYTHON" - "$out" "$version" "$hash" "$id" "$deb" "$(gcc --version | head -n1)" "$patched" <<'PYTHON'
import hashlib, json, os, re, sys

out, version, digest, build_id, package, compiler, patched = sys.argv[1:]

def sha256(name):
    with open(f"{out}/{name}", "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()

with open(f"{patched}/xen/include/public/xfi.h") as f:
    abi = int(re.search(r"#define XFI_ABI_VERSION\s+(\d+)", f.read()).group(1))
manifest = {
    "format": 1,
    "xen": version,
    "package": package,
    "inputs": digest,
    "build_id": build_id,
    "xfi_abi_version": abi,
    "compiler": compiler,
    "sha256": {name: sha256(name) for name in sorted(os.listdir(out))},
}
with open(out + "/manifest.json", "w") as f:
    json.dump(manifest, f, indent=2)
    f.write("\n")
PYTHON

finish
say "done: $result, for the Xen with build-id $id"

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
# The hash is over the series, the pinned sources and the scripts. A result
# appears under its name only when whole; a killed build leaves nothing that a
# later one would trust.
#
# The sources come from the Debian mirror this machine's apt uses, and are
# checked against the SHA-256 in <version>/sources. XFI_XEN_SOURCES=<directory>
# has them taken from there; XFI_DEBIAN_MIRROR=<uri> names another mirror.
set -euo pipefail
shopt -s nullglob

# shellcheck disable=SC2034 # the library's
what=xen-build
# shellcheck source=lib/build.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib/build.sh"
arguments series "$@"

# Relative names and the content; the mode matters to nobody.
hash=$(cd "$patches" && sha256sum build.sh lib/build.sh "$version/series" "$version/sources" \
    "${names[@]/#/$version/}" | sha256sum | cut -c1-12)
begin "$version" "$hash" perl pkg-config

say "building Xen $version with our patches: about 2 minutes on 2 cores, 350 MB of disk while it runs"
fetch_all "$series/sources"
[[ $orig && $debian ]] || die "$series/sources doesn't name both tarballs"

src=$work/src
mkdir "$src"
tar -xJf "$sources/$orig" -C "$src" --strip-components=1
tar -xJf "$sources/$debian" -C "$src" debian/xen-kconfig

say "applying the series"
apply_series "$src"

# --- build -----------------------------------------------------------------

jobs=$(nproc)
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
mkdir "$out/lib"
install -m 0644 "$src/xen/xen" "$out/xen"
install -m 0644 "$src/xen/xen-syms" "$out/xen-syms"
install -m 0644 "$src/xen/.config" "$out/xen.config"
nm "$out/xen-syms" | sort >"$out/xen.symbols"
mv "$stage/usr/include" "$out/include"
cp -a "$stage"/usr/lib/*.so* "$out/lib/"
id=$(build_id "$out/xen-syms")
[[ $id ]] || die "the hypervisor has no build-id"
compiler=$(gcc --version | head -n1)

"$PYTHON" - "$out" "$version" "$hash" "$id" "$orig" "$compiler" "$series" <<'PYTHON'
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

finish
say "done: $result, build-id $id"

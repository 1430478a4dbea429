#!/bin/bash
# build-guests.sh SUITE OUTDIR
#
# Build what guests boot from, out of that Debian release's packages and without
# booting or installing anything: OUTDIR/{vmlinuz,vmlinux,web.cpio,kat.cpio} and,
# for the emulated testbed, OUTDIR/{modules/,packages.txt}.
#
# web.cpio holds Debian's own apache2, its libraries as found by the dynamic
# linker, busybox and the few kernel modules; not the package manager
# and the rest of a distribution, which would only make the guest slow to boot.
#
# Runs as any user that mmdebstrap supports; takes about 25 s.
set -euo pipefail
shopt -s nullglob

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
ansible_dir=$(dirname -- "$here")
repo=$(dirname -- "$ansible_dir")
# shellcheck source=../lib/debian-source.sh
. "$ansible_dir/lib/debian-source.sh"
# shellcheck source=../lib/initramfs.sh
. "$ansible_dir/lib/initramfs.sh"

say() { printf 'build-guests: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
[[ $# -eq 2 ]] || die "usage: $0 SUITE OUTDIR"
for tool in mmdebstrap cpio xz modprobe depmod; do
    command -v "$tool" >/dev/null || die "needs the program $tool"
done

suite=$1
out=$2
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d "$out/.build.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
tree=$work/tree

export DEBIAN_FRONTEND=noninteractive
say "fetching and unpacking the kernel and Apache from Debian $suite (about 20 s)"
debian_sources "$suite" >"$work/sources.list"
mode=()
[[ $(id -u) -ne 0 ]] || mode=(--mode=root)
mmdebstrap --quiet --variant=extract "${mode[@]}" "$merge_usr" \
    --include=apache2-bin,busybox-static,base-files,linux-image-amd64 \
    --dpkgopt='path-exclude=/usr/share/*' \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/lib/modules/*/kernel/sound/*' \
    --dpkgopt='path-exclude=/usr/lib/modules/*/kernel/drivers/gpu/*' \
    --extract-hook='cd "$1"/var/cache/apt/archives && ls -1 *.deb >"'"$work"'/debs"' \
    "$suite" "$tree" "$work/sources.list" >&2

images=("$tree"/boot/vmlinuz-*)
[[ ${#images[@]} -eq 1 ]] || die "expected one kernel, found ${#images[@]}"
kver=${images[0]##*/vmlinuz-}
depmod -b "$tree" "$kver"

say "kernel $kver: uncompressing"
install -m 0644 "${images[0]}" "$out/vmlinuz"
"$ansible_dir/lib/vmlinux-from-bzimage.sh" "${images[0]}" "$out/vmlinux"
install -m 0755 "$tree/usr/bin/busybox" "$out/busybox"
printf '%s\n' "$kver" >"$out/kernel-version"

# Modules, uncompressed: the initramfs' (in loading order), then dom0's.
rm -rf "$out/modules"
mkdir -p "$out/modules/initrd" "$out/modules/dom0"
modules_into "$tree" "$kver" "$out/modules/initrd" virtio_pci virtio_blk virtio_net virtio_console ext4
modules_into "$tree" "$kver" "$out/modules/dom0" xen-evtchn xen-gntdev xen-gntalloc xen-privcmd \
    xenfs bridge tun xen-netback xen-blkback loop

say "kernel module and known-answer process for faults in tasks"
"$repo/injector/kmod/build-debian.sh" "$suite" "$kver" "$out/xfi_task.ko"
"$repo/injector/kat/build-task.sh" "$out/task-kat" >&2

say "web guest"
web=$work/web
mkdir -p "$web"/{bin,dev,etc/{apache2,xfi},lib64,proc,run,sys,tmp,usr/{bin,sbin,lib/{cgi-bin,xfi}},var/www,lib/modules}
chmod 1777 "$web/tmp"
install -m 0755 "$here/web/init" "$web/init"
install -m 0755 "$here/web/sha1" "$web/usr/lib/cgi-bin/sha1"
install -m 0644 "$here/web/httpd.conf" "$web/etc/apache2/httpd.conf"
install -m 0644 "$here/web/sha1-bytes" "$web/etc/xfi/sha1-bytes"
printf 'root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n' >"$web/etc/passwd"
printf 'root:x:0:\nwww-data:x:33:\n' >"$web/etc/group"
printf '127.0.0.1 localhost\n' >"$web/etc/hosts"
printf 'ok\n' >"$web/var/www/index.html"
install -m 0755 "$tree/usr/bin/busybox" "$web/bin/busybox"
# busybox's shell runs these as its own children without an exec, which under
# emulation, and most of all in a PV guest, is the dear part of a request.
for name in sh cat head kill ls ps sha1sum uname; do ln -s busybox "$web/bin/$name"; done
apache_modules=()
for m in mpm_prefork authz_core alias cgi env; do
    apache_modules+=("/usr/lib/apache2/modules/mod_$m.so")
done
closure_into "$tree" "$web" /usr/sbin/apache2 "${apache_modules[@]}"
modules_into "$tree" "$kver" "$web/lib/modules" xen-netfront
install -m 0644 "$out/xfi_task.ko" "$web/lib/modules/90-xfi_task.ko"
install -m 0755 "$out/task-kat" "$web/usr/lib/xfi/task-kat"
# A throw-away guest made for injection: its agent may put faults in its tasks.
: >"$web/etc/xfi/allow-injection"
make_cpio "$web" "$out/web.cpio"

if [[ -x $repo/injector/kat/build.sh ]]; then
    say "known-answer guest"
    mkdir -p "$work"/kat/{dev,proc,lib/modules}
    "$repo/injector/kat/build.sh" "$work/kat/init" >&2
    chmod 0755 "$work/kat/init"
    modules_into "$tree" "$kver" "$work/kat/lib/modules" xen-privcmd
    make_cpio "$work/kat" "$out/kat.cpio"
else
    say "known-answer guest: skipped (injector/kat/build.sh is not there)"
    rm -f "$out/kat.cpio"
fi

# Names are PACKAGE_VERSION_ARCH.deb, with the epoch's colon written %3a.
sed -E 's/^([^_]+)_([^_]+)_.*/\1 \2/; s/%3a/:/' "$work/debs" | LC_ALL=C sort >"$out/packages.txt"
[[ -s $out/packages.txt ]] || die "the list of packages came out empty"
say "done: web.cpio $(du -h "$out/web.cpio" | cut -f1), vmlinux $(du -h "$out/vmlinux" | cut -f1)"

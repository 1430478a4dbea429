#!/bin/bash
# Build the emulated testbed's image: a whole Xen host (dom0 with Xen's tools
# and libvirt, a web guest, a known-answer guest) as files that QEMU boots.
#
#   ansible/build-image.sh [trixie]           build, unless it is there already
#   ansible/build-image.sh --print [trixie]   print the image's directory, build nothing
#
# The argument is the Debian release of dom0 and guests: trixie (13), which has
# Xen 4.20's tools, or bookworm (12), which has 4.17's.
#
# Result: target/image/<hash>/ and a link with the release's name to it. The hash
# is over everything that goes in, so that an unchanged tree builds nothing. An
# image appears under its name only when whole; a build that was killed leaves
# nothing that a later one would trust.
set -euo pipefail
shopt -s nullglob

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname -- "$here")
target=$repo/target/image
# shellcheck source=lib/debian-source.sh
. "$here/lib/debian-source.sh"
# shellcheck source=lib/initramfs.sh
. "$here/lib/initramfs.sh"

started=$SECONDS
say() { printf 'build-image: [%3ds] %s\n' $((SECONDS - started)) "$*" >&2; }
die() { say "error: $*"; exit 1; }

print=
if [[ ${1-} == --print ]]; then
    print=1
    shift
fi
(($# <= 1)) || die "usage: $0 [--print] [trixie|bookworm]"
suite=${1-trixie}
xen=$(xen_release_of "$suite") || exit 1

# Everything under ansible/ but its documentation and what only real hosts use,
# and the known-answer guest's source with the header it needs. Names and modes count too.
content_hash() {
    local -a dirs=(ansible)
    [[ ! -d $repo/injector/kat ]] || dirs+=(injector/kat xen-patches/include)
    dirs+=(injector/kmod)
    (
        cd "$repo"
        find "${dirs[@]}" -type f ! -name '*.md' ! -name 'inventory*' ! -name 'site.yml' \
            ! -name '*.swp' ! -path '*/target/*' -print0 | LC_ALL=C sort -z |
            xargs -0 stat --format '%n %a' | sed 's/ [0-7]*\([0-7]\)[0-7][0-7]$/ \1/'
        find "${dirs[@]}" -type f ! -name '*.md' ! -name 'inventory*' ! -name 'site.yml' \
            ! -name '*.swp' ! -path '*/target/*' -print0 | LC_ALL=C sort -z |
            xargs -0 sha256sum
        printf '%s\n' "$suite"
    ) | sha256sum | cut -c1-12
}

hash=$(content_hash)
image=$target/$hash
if [[ $print ]]; then
    printf '%s\n' "$image"
    exit 0
fi
link_image() {
    ln -sfn "$hash" "$target/.link.$$"
    mv -T "$target/.link.$$" "$target/$suite"
}
if [[ -e $image/manifest.json ]]; then
    link_image
    say "up to date: target/image/$suite ($hash)"
    exit 0
fi

[[ $(id -u) -eq 0 ]] || die "building the image needs root (a chroot is filled with packages); run: sudo $0 $suite"
missing=()
for tool in mmdebstrap:mmdebstrap ansible-playbook:ansible mke2fs:e2fsprogs cpio:cpio xz:xz-utils \
    zstd:zstd depmod:kmod ssh-keygen:openssh-client jq:jq flock:util-linux; do
    command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
done
((${#missing[@]} == 0)) || die "packages are missing; run: apt-get install --no-install-recommends ${missing[*]}"
[[ -r /usr/share/keyrings/debian-archive-keyring.gpg || -r /usr/share/keyrings/debian-archive-keyring.pgp ]] ||
    die "packages are missing; run: apt-get install debian-archive-keyring"
mkdir -p "$target"

exec 9>"$target/.lock"
flock -n 9 || { say "another build is running; waiting for it"; flock 9; }
if [[ -e $image/manifest.json ]]; then # the other build made it
    link_image
    say "up to date: target/image/$suite ($hash)"
    exit 0
fi

say "building the emulated testbed's image target/image/$hash from Debian $suite (about 2 min, 1.5 GB of disk)"
work=$(mktemp -d "$target/.build.XXXXXX")
jobs_pids=()
cleanup() {
    local status=$? pid
    trap '' INT TERM
    for pid in "${jobs_pids[@]}"; do kill -- "$pid" 2>/dev/null || true; done
    # Never delete through a mount that something left in the chroot.
    local mnt
    while read -r mnt; do umount -l -- "$mnt" 2>/dev/null || true; done < <(
        awk -v p="$work/" 'index($2, p) == 1 { print $2 }' /proc/self/mounts | sort -r
    )
    if ! awk -v p="$work/" 'index($2, p) == 1 { f = 1 } END { exit f }' /proc/self/mounts; then
        say "left $work as it is: something is still mounted in it"
    else
        rm -rf -- "$work"
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# What earlier builds that were killed left behind (we hold the lock).
for old in "$target"/.build.*; do
    [[ $old == "$work" ]] || grep -q " $old/" /proc/self/mounts || rm -rf -- "$old"
done

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
root=$work/root
guests=$work/guests
debian_sources "$suite" >"$work/sources.list"

say "guests and kernel (in the background)"
"$here/guests/build-guests.sh" "$suite" "$guests" >"$work/guests.log" 2>&1 &
guests_pid=$!
jobs_pids+=("$guests_pid")

say "dom0: Debian's base system"
# Xen's tools and libvirt are installed here already, as one set and fast; the
# roles, which name what they need, then find them in place.
mmdebstrap --quiet --mode=root --variant=minbase \
    --include="python3,python3-apt,ca-certificates,openssh-server,iproute2,iputils-ping,bridge-utils,xen-utils-$xen,xen-utils-common,xenstore-utils,qemu-system-xen,libvirt-daemon,libvirt-daemon-driver-xen,libvirt-clients" \
    --aptopt='APT::Install-Recommends "false"' \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt=force-unsafe-io \
    --skip=cleanup/apt/lists \
    --essential-hook='printf "#!/bin/sh\nexit 101\n" >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"' \
    "$suite" "$root" "$work/sources.list" >"$work/dom0.log" 2>&1 ||
    { tail -n 30 "$work/dom0.log" >&2; die "mmdebstrap failed (its last lines are above)"; }

say "waiting for the guests"
wait "$guests_pid" || { tail -n 30 "$work/guests.log" >&2; die "the guests could not be built (log above)"; }
jobs_pids=()

say "dom0: applying the roles"
ssh-keygen -q -t ed25519 -N '' -C xfi-testbed -f "$work/ssh_key"
chmod 0600 "$work/ssh_key"
cat >"$work/inventory.yml" <<END
testbed_image:
  hosts:
    testbed:
      ansible_host: $root
      ansible_connection: community.general.chroot
END
jq -n --arg g "$guests" --arg k "$work/ssh_key.pub" '{
    web_guest_artefacts: $g, kat_guest_artefacts: $g, task_module_artefacts: $g,
    emulated_dom0_artefacts: $g, emulated_dom0_authorized_key: $k
}' >"$work/vars.json"
ANSIBLE_CONFIG=$here/ansible.cfg ANSIBLE_LOCAL_TEMP=$work/ansible-tmp ANSIBLE_FORCE_COLOR=0 \
    ansible-playbook -i "$work/inventory.yml" -e "@$work/vars.json" "$here/testbed-image.yml" \
    >"$work/ansible.log" 2>&1 ||
    { tail -n 60 "$work/ansible.log" >&2; die "ansible failed (its last lines are above)"; }

say "dom0: making the disk"
chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' | LC_ALL=C sort >"$work/dom0-packages.txt"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/* "$root"/root/.ansible \
    "$root"/usr/sbin/policy-rc.d "$root"/var/log/* "$root"/tmp/*
find "$root/dev" "$root/run" -mindepth 1 -delete
# No journal: each run starts from a fresh overlay of this disk.
used=$(du -sm --apparent-size "$root" | cut -f1)
mke2fs -q -t ext4 -O '^has_journal,^metadata_csum,^64bit' -m 0 -N 65536 -L xfi-dom0 \
    -d "$root" "$work/dom0.img" "$((used * 115 / 100 + 128))M" 2>"$work/mke2fs.log" ||
    { cat "$work/mke2fs.log" >&2; die "mke2fs failed"; }

say "initramfs, manifest"
initrd=$work/initrd
mkdir -p "$initrd"/{bin,dev,proc,sys,root,modules}
install -m 0755 "$here/initramfs/init" "$initrd/init"
install -m 0755 "$guests/busybox" "$initrd/bin/busybox"
install -m 0644 "$guests"/modules/initrd/*.ko "$initrd/modules/"

out=$work/out
mkdir -p "$out/guests" "$out/symbols"
make_cpio "$initrd" "$out/initrd-dom0.cpio"
mv "$work/dom0.img" "$out/dom0.img"
cp --reflink=auto "$guests/vmlinux" "$out/vmlinux-dom0"
mv "$work/ssh_key" "$work/ssh_key.pub" "$out/"
for f in web.cpio kat.cpio; do
    [[ ! -e $guests/$f ]] || cp "$guests/$f" "$out/guests/$f"
done
(
    cd "$out"
    files=(dom0.img vmlinux-dom0 initrd-dom0.cpio guests/*.cpio)
    sha256sum "${files[@]}" | jq -Rn '[inputs | capture("^(?<s>[0-9a-f]+) +(?<f>.*)$") | {(.f): .s}] | add' >"$work/sums.json"
)
packages() { jq -Rn '[inputs | split(" ") | {(.[0]): .[1]}] | add' <"$1"; }
packages "$work/dom0-packages.txt" >"$work/dom0-packages.json"
packages "$guests/packages.txt" >"$work/guest-packages.json"
jq -n --arg hash "$hash" --arg suite "$suite" --arg kver "$(<"$guests/kernel-version")" \
    --slurpfile sums "$work/sums.json" --slurpfile dom0 "$work/dom0-packages.json" \
    --slurpfile guest "$work/guest-packages.json" \
    --arg digest "$(jq -cS . "$work/sums.json" | sha256sum | cut -d' ' -f1)" '{
    format: 1, inputs: $hash, digest: $digest, debian: $suite, kernel: $kver,
    sha256: $sums[0], packages: {dom0: $dom0[0], guests: $guest[0]}
}' >"$out/manifest.json"

# Made by root, used by whoever has the tree.
owner=$(stat -c %u:%g "$repo")
chown -- "$owner" "$repo/target" "$target"
chown -R -- "$owner" "$out"

rm -rf -- "$image"
mv -T "$out" "$image"
link_image
say "done: target/image/$hash ($(du -sh "$image" | cut -f1) on disk)"

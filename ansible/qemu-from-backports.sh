#!/bin/bash
# Install QEMU >= 10 (qemu-system-x86_64).
#
# Debian 13 has it: there this installs the distribution's own package if it
# is missing, and adds no source. Debian 12 has QEMU 7.2, which cannot restore
# our snapshots: there this adds Debian's own backports suite, from the mirror
# that the machine already uses, and installs QEMU from it.
#
# Does nothing at all where qemu-system-x86_64 is already new enough.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lib/debian-source.sh
. "$here/lib/debian-source.sh"

want=10
source_file=/etc/apt/sources.list.d/xfi-backports.sources

say() { printf 'qemu-from-backports: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

qemu_major() {
    local v
    v=$(qemu-system-x86_64 --version 2>/dev/null) || { echo 0; return; }
    [[ $v =~ version\ ([0-9]+) ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

have=$(qemu_major)
if ((have >= want)); then
    say "qemu-system-x86_64 is version $have; nothing to do"
    exit 0
fi

command -v apt-get >/dev/null ||
    die "this is not a Debian system; install qemu-system-x86_64 >= $want by hand"
[[ $(id -u) -eq 0 ]] || die "installing packages needs root; run: sudo $0"

codename=$(debian_codename)
apt=(apt-get -q -y -o DPkg::Lock::Timeout=600 --no-install-recommends)
export DEBIAN_FRONTEND=noninteractive

case $codename in
bookworm) suite=bookworm-backports ;;
*) suite= ;;
esac

if [[ -n $suite && ! -e $source_file ]]; then
    uri=$(debian_archive_uri) ||
        die "apt has no source for Debian $codename main; cannot tell which mirror to use"
    keyring=$(debian_keyring) || die "the Debian archive keyring is missing (package debian-archive-keyring)"
    say "Debian $codename has a QEMU older than $want. About to add this source"
    say "(Debian's own backports, from the mirror this machine already uses; packages"
    say "from it are installed only when asked for) as $source_file:"
    tmp=$(mktemp)
    trap 'rm -f "$tmp"' EXIT
    cat >"$tmp" <<END
# Added by xfi (ansible/qemu-from-backports.sh) for QEMU >= $want.
# To undo: delete this file, then apt-get update.
Types: deb
URIs: $uri
Suites: $suite
Components: main
Signed-By: $keyring
END
    sed 's/^/    /' "$tmp" >&2
    install -m 0644 "$tmp" "$source_file"
fi

say "installing qemu-system-x86 and qemu-utils${suite:+ from $suite}"
"${apt[@]}" update >&2
"${apt[@]}" install ${suite:+-t "$suite"} qemu-system-x86 qemu-utils >&2

have=$(qemu_major)
((have >= want)) || die "after the installation qemu-system-x86_64 is version $have, not >= $want"
say "done: $(qemu-system-x86_64 --version | head -n1)"

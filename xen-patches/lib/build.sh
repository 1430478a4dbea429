# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
# What the builds here share: what they are called with, a result that appears
# under its name only when whole, Debian's sources by their SHA-256, and our
# patches.
#
# To be sourced where $what is the word in front of all messages.
# shellcheck disable=SC2034,SC2154
export LC_ALL=C

patches=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
target=$(dirname -- "$patches")/target/xen
sources=$target/sources

started=$SECONDS
say() { printf '%s: [%3ds] %s\n' "$what" $((SECONDS - started)) "$*" >&2; }
die() { say "error: $*"; exit 1; }

# arguments <file> [--print] [version]: sets $print, $version, $series and the
# patches' $names. There must be that <file> for the version.
arguments() {
    local file=$1 have
    shift
    print=
    if [[ ${1-} == --print ]]; then
        print=1
        shift
    fi
    (($# <= 1)) || die "usage: build.sh [--print] [4.20]"
    version=${1-4.20}
    series=$patches/$version
    [[ $version =~ ^[0-9]+\.[0-9]+$ && -e $series/$file ]] || {
        have=("$patches"/*/"$file")
        have=("${have[@]%/"$file"}")
        die "no $file is there for Xen '$version', only for: ${have[*]##*/}"
    }
    mapfile -t names < <(sed 's/[[:space:]].*//; /^#/d; /^$/d' "$series/series")
}

done_already() {
    [[ -e $result/manifest.json ]] || return 1
    # The link is replaced in one step.
    ln -sfn "${result##*/}" "$target/.link.$$"
    mv -T "$target/.link.$$" "$target/$link"
}

# begin <link> <hash> <tool...>: ends here if the result is there already, or is
# only to be named. Else $work is a directory to work in, and $work/out the
# result's; finish makes it appear.
begin() {
    local tool missing=()
    link=$1
    result=$target/$1-$2
    shift 2
    if [[ $print ]]; then
        printf '%s\n' "$result"
        exit 0
    fi
    mkdir -p "$target" "$sources"
    if done_already; then
        say "$result is there already; nothing to do"
        exit 0
    fi
    for tool in gcc ld make bison flex python3 patch tar xz sha256sum nm readelf objcopy "$@"; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    ((${#missing[@]} == 0)) || die "not installed: ${missing[*]} (see xen-patches/README.md for the packages)"
    # One build at a time: another one may well be building the same.
    exec 9>"$target/.$what.lock"
    if ! flock -n 9; then
        say "waiting for another build in $target"
        flock 9
        if done_already; then exit 0; fi
    fi
    # Left by builds that were killed: the lock is ours, nobody uses them.
    rm -rf "$target/.$what.build".*
    work=$(mktemp -d "$target/.$what.build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mkdir "$work/out"

    # Nothing of the caller's environment, and nothing of this machine's in the
    # result: the same input makes the same hypervisor, with the same build-id.
    unset MAKEFLAGS MFLAGS MAKELEVEL CFLAGS CPPFLAGS CXXFLAGS LDFLAGS ARCH CROSS_COMPILE CC LD
    export XEN_BUILD_DATE="series $hash" XEN_BUILD_TIME='' XEN_WHOAMI=xfi XEN_DOMAIN=xfi
    export XEN_BUILD_HOST=xfi SOURCE_DATE_EPOCH=0
    export PYTHON=/usr/bin/python3
    [[ -x $PYTHON ]] || PYTHON=$(command -v python3)
}

finish() {
    # What is there can't be whole, or it had been used above.
    rm -rf "$result"
    chmod 0755 "$work/out"
    mv -T "$work/out" "$result"
    done_already
}

run() { # <name> <command...>: quiet unless it fails
    local log=$work/$1.log
    shift
    "$@" >"$log" 2>&1 </dev/null || {
        tail -n 40 "$log" >&2
        die "failed: $*"
    }
}

build_id() { # <file>
    readelf -n "$1" | sed -n 's/.*Build ID: \([0-9a-f]*\).*/\1/p' | head -n1
}

apply_series() { # <directory of Xen's source>
    local patch
    for patch in "${names[@]}"; do
        patch --directory="$1" --strip=1 --forward --fuzz=0 --silent --no-backup-if-mismatch \
            <"$series/$patch" >&2 || die "$version/$patch doesn't apply"
    done
}

# fetch_all <file...>: gets what these files list, and sets $orig, $debian, $deb
# and $dbg to those of each kind.
fetch_all() {
    local sum file
    orig='' debian='' deb='' dbg=''
    while read -r sum _ file; do
        case $file in
        *.orig.tar.xz) orig=$file ;;
        *.debian.tar.xz) debian=$file ;;
        *-dbg_*.deb) dbg=$file ;;
        *.deb) deb=$file ;;
        *) continue ;;
        esac
        fetch "$file" "$sum"
    done < <(cat "$@")
}

verify() { # <file> <sha256>
    [[ -f $1 ]] && printf '%s  %s\n' "$2" "$1" | sha256sum --check --status
}

# Where this machine's apt gets Debian's main archive; several, to be tried in turn.
mirrors() {
    if [[ ${XFI_DEBIAN_MIRROR-} ]]; then
        printf '%s\n' "${XFI_DEBIAN_MIRROR%/}"
        return
    fi
    # shellcheck disable=SC2016 # apt expands these
    apt-get indextargets --format '$(SITE) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk '$2 == "main" && $1 !~ /security/ && !seen[$1]++ { sub(/\/$/, "", $1); print $1 }'
}

fetch() { # <file> <sha256>
    local file=$1 sum=$2 mirror uri
    if verify "$sources/$file" "$sum"; then return; fi
    if [[ ${XFI_XEN_SOURCES-} ]]; then
        verify "$XFI_XEN_SOURCES/$file" "$sum" ||
            die "XFI_XEN_SOURCES: $XFI_XEN_SOURCES/$file is missing, or isn't the pinned one"
        cp "$XFI_XEN_SOURCES/$file" "$work/fetched"
    else
        [[ -x /usr/lib/apt/apt-helper ]] ||
            die "this isn't a Debian system: get $file by hand, and set XFI_XEN_SOURCES to its directory"
        rm -f "$work/fetched"
        for mirror in $(mirrors); do
            uri=$mirror/pool/main/x/xen/${file//+/%2b}
            say "fetching $file"
            if /usr/lib/apt/apt-helper -o Acquire::Retries=3 -o APT::Sandbox::User=root \
                download-file "$uri" "$work/fetched" "SHA256:$sum" >"$work/fetch.log" 2>&1; then
                break
            fi
            cat "$work/fetch.log" >&2
            rm -f "$work/fetched"
        done
        verify "$work/fetched" "$sum" ||
            die "cannot get $file from the mirrors apt uses here; Debian may have replaced it by a newer one: set XFI_XEN_SOURCES to a directory which has it"
    fi
    mv "$work/fetched" "$sources/$file"
}

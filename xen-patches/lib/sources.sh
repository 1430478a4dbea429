# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
# Files of Debian's source package xen, by SHA-256.
#
# To be sourced where $sources (the directory they are kept in) and $work (a
# temporary one) are set, and say() and die() there.
# shellcheck disable=SC2154

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

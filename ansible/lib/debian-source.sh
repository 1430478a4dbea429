# shellcheck shell=bash
# Functions that read this machine's own apt configuration, so that nothing
# under ansible/ names a mirror: whatever the machine uses, we use.

# debian_codename: prints e.g. "bookworm".
debian_codename() {
    # shellcheck source=/dev/null
    (. /etc/os-release && printf '%s\n' "${VERSION_CODENAME:-}")
}

# debian_archive_uri: prints the URI of the Debian main archive that apt uses
# for this release; empty (and non-zero) if there is none.
debian_archive_uri() {
    local codename
    codename=$(debian_codename)
    apt-get indextargets \
        --format '$(ORIGIN)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)' \
        'Created-By: Packages' 2>/dev/null |
        awk -F'|' -v code="$codename" '
            # Origin and codename are empty until the first "apt-get update".
            $1 != "" && $1 != "Debian" { next }
            $4 == "main" && ($2 == code || $3 == code) {
                sub(/\/$/, "", $5); print $5; found = 1; exit
            }
            END { exit !found }'
}

# xen_release_of SUITE: prints the Xen release of a Debian release that images are
# made of.
xen_release_of() {
    case $1 in
    bookworm) echo 4.17 ;;
    trixie) echo 4.20 ;;
    *)
        echo "error: images are made of Debian trixie and bookworm, not '$1'" >&2
        return 1
        ;;
    esac
}

# merge_usr: a hook for mmdebstrap, for trees in which packages are only unpacked:
# bookworm's have files in /bin and /lib, which their scripts would have linked.
# shellcheck disable=SC2016,SC2034 # mmdebstrap's shell expands it
merge_usr='--setup-hook=cd "$1" && for dir in bin sbin lib lib64; do mkdir -p "usr/$dir" && ln -s "usr/$dir" "$dir"; done'

# debian_keyring: prints the path of the Debian archive keyring.
debian_keyring() {
    local k
    for k in /usr/share/keyrings/debian-archive-keyring.gpg \
        /usr/share/keyrings/debian-archive-keyring.pgp; do
        if [[ -r $k ]]; then
            printf '%s\n' "$k"
            return 0
        fi
    done
    return 1
}

# debian_sources SUITE: prints apt sources for SUITE from this machine's mirror,
# with its security updates when the machine uses a security archive.
debian_sources() {
    local suite=$1 uri keyring security
    uri=$(debian_archive_uri) || {
        echo "apt has no source for this Debian's main archive; cannot tell which mirror to use" >&2
        return 1
    }
    keyring=$(debian_keyring) || {
        echo "the Debian archive keyring is missing (package debian-archive-keyring)" >&2
        return 1
    }
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$suite"
    security=$(apt-get indextargets \
        --format '$(RELEASE)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -F'|' -v want="$(debian_codename)-security" \
            '$1 == want && $2 == "main" { sub(/\/$/, "", $3); print $3; exit }')
    if [[ -n $security ]]; then
        printf 'deb [signed-by=%s] %s %s-security main\n' "$keyring" "$security" "$suite"
    fi
}

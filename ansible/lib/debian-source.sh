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

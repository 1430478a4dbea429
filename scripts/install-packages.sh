#!/usr/bin/env bash
# Installs the Debian packages that are missing of a list, apt-packages.txt by
# default.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
while read -r package; do
    case $package in '' | '#'*) continue ;; esac
    if ! dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed; then
        missing+=("$package")
    fi
done <"${1:-apt-packages.txt}"
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then
    sudo=(sudo)
fi
echo "installing ${#missing[@]} Debian packages (about 1 min): ${missing[*]}" >&2
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

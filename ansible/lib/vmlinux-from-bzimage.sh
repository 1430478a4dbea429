#!/bin/bash
# vmlinux-from-bzimage.sh BZIMAGE OUT
#
# Take the uncompressed ELF kernel out of a bzImage. Under emulation nothing
# should be inflated at boot; Xen and libxl load the ELF as it is (it keeps the
# Xen notes that PV and PVH need). The place and length of the payload come
# from the boot protocol's setup header, not from a search for magic bytes.
set -euo pipefail

die() { printf 'vmlinux-from-bzimage: error: %s\n' "$*" >&2; exit 1; }
[[ $# -eq 2 ]] || die "usage: $0 BZIMAGE OUT"
in=$1 out=$2
[[ -r $in ]] || die "cannot read $in"

u() { od -An -t "u$2" -j "$1" -N "$2" "$in" | tr -d ' '; }

[[ $(tail -c +$((0x202 + 1)) "$in" | head -c 4 | tr -d "\0") == HdrS ]] ||
    die "$in is not a bzImage"
setup_sects=$(u $((0x1f1)) 1)
((setup_sects == 0)) && setup_sects=4
offset=$(u $((0x248)) 4)
length=$(u $((0x24c)) 4)
start=$(((setup_sects + 1) * 512 + offset))

payload() { tail -c +$((start + 1)) "$in" | head -c "$length" 2>/dev/null || true; }
magic=$(payload | od -An -t x1 -N 6 | tr -d ' \n') || true
case $magic in
fd377a585a00) inflate=(xz --decompress --stdout --single-stream) ;;
28b52ffd*) inflate=(zstd --decompress --stdout --quiet) ;;
1f8b*) inflate=(gzip --decompress --stdout --quiet) ;;
5d0000*) inflate=(xz --format=lzma --decompress --stdout) ;;
02214c18*) inflate=(lz4 --decompress --stdout) ;;
*) die "$in: unknown compression (magic $magic)" ;;
esac
command -v "${inflate[0]}" >/dev/null || die "needs the program ${inflate[0]}"

# The payload ends with its own uncompressed size in 4 bytes, which most
# decompressors call trailing garbage: so the result is judged, not the status.
tmp=$out.tmp.$$
trap 'rm -f "$tmp"' EXIT
payload | "${inflate[@]}" >"$tmp" 2>/dev/null || true
size=$(tail -c +$((start + length - 3)) "$in" | od -An -t u4 -N 4 | tr -d ' ') || true
[[ $(head -c 4 "$tmp" | od -An -t x1 | tr -d ' \n') == 7f454c46 ]] ||
    die "$in: the payload is not an ELF kernel"
[[ $(stat -c %s "$tmp") -ge $size ]] ||
    die "$in: the kernel came out short ($(stat -c %s "$tmp") of $size bytes)"
mv "$tmp" "$out"

# shellcheck shell=bash
# Functions that put an initramfs together from an unpacked Debian tree.

# make_cpio DIR OUT: DIR as an uncompressed newc archive, owned by root, with
# names in a fixed order and times zeroed so that the same input gives the same
# bytes.
make_cpio() {
    local dir=$1 out=$2
    find "$dir" -exec touch --no-dereference --date=@0 {} +
    (cd "$dir" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
        cpio --null --create --format=newc --owner=0:0 --reproducible --quiet) >"$out.tmp"
    mv "$out.tmp" "$out"
}

# modules_into TREE KVER DIR NAME...: the named kernel modules and what they
# need, uncompressed, as DIR/NN-name.ko where NN is the order to load them in.
modules_into() {
    local tree=$1 kver=$2 dir=$3 name file n=10 base
    shift 3
    for name in "$@"; do
        while read -r file; do
            base=${file##*/}
            base=${base%.xz}
            base=${base%.zst}
            compgen -G "$dir/[0-9][0-9]-$base" >/dev/null && continue
            case $file in
            *.xz) xz -dc "$file" ;;
            *.zst) zstd -dcq "$file" ;;
            *) cat "$file" ;;
            esac >"$dir/$n-$base"
            n=$((n + 1))
        done < <(modprobe --dirname "$tree" --set-version "$kver" --show-depends "$name" |
            awk '$1 == "insmod" { print $2 }')
    done
    # A module that is built in has no file; one that is missing is an error.
    for name in "$@"; do
        modprobe --dirname "$tree" --set-version "$kver" --quiet --show-depends "$name" >/dev/null || {
            echo "the kernel $kver has no module $name" >&2
            return 1
        }
    done
}

# closure_into TREE DEST FILE...: copies the named ELF files and every library
# they load, as TREE's own dynamic linker finds them.
closure_into() {
    local tree=$1 dest=$2 file lib
    shift 2
    local ld=$tree/lib64/ld-linux-x86-64.so.2 libs=$tree/usr/lib/x86_64-linux-gnu
    mkdir -p "$dest/lib64" "$dest/usr/lib/x86_64-linux-gnu"
    install -m 0755 "$ld" "$dest/lib64/ld-linux-x86-64.so.2"
    for file in "$@"; do
        install -D -m 0755 "$tree$file" "$dest$file"
        while read -r lib; do
            install -m 0644 "$libs/$lib" "$dest/usr/lib/x86_64-linux-gnu/$lib"
        done < <("$ld" --inhibit-cache --library-path "$libs" --list "$tree$file" |
            awk '$2 == "=>" && $3 ~ /^\// && $1 !~ /^\// { print $1 }')
    done
    ln -sfn ../usr/lib/x86_64-linux-gnu "$dest/lib/x86_64-linux-gnu"
}

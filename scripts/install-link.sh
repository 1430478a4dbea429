#!/usr/bin/env bash
# Links the built xfi into a directory of the PATH, so that the commands of the
# README work as written.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -w /usr/local/bin ]; then
    bin=/usr/local/bin
else
    bin=$HOME/.local/bin
    mkdir -p "$bin"
fi
ln -sfn "$PWD/target/release/xfi" "$bin/xfi"
case ":$PATH:" in
    *":$bin:"*) echo "xfi is $bin/xfi" ;;
    *) echo "xfi is $bin/xfi; add $bin to your PATH" ;;
esac

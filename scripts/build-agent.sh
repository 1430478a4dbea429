#!/bin/bash
# Build xfi-agent: for dom0, and a static one for guests, which have their own
# libraries or none. Both run on Debian 12 and 13, wherever they are built.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
sysroot=$(scripts/agent-sysroot.sh)
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS=$sysroot \
    cargo build --quiet --profile agent -p xfi-agent
CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --quiet --profile agent -p xfi-agent --no-default-features \
    --target x86_64-unknown-linux-gnu

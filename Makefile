# Thin: what is done lives in the crates and in the scripts named here.
#
#   make demo      install, build, make the emulated testbed, run a campaign
#   make test      install, build, run all tests
#   make test-lab  the longer tests against the emulated testbed
#   make bench     the figures this project is held to
#   make clean     remove everything that was built

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-lab bench deps xen xen-4.17 stock stock-4.17 image image-4.17 agent xfi \
	testbed testbed-4.17 install lint clean

CARGO := cargo
XFI := target/release/xfi
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

help:
	@sed -n 's/^#   //p' Makefile

demo:
	@echo "xfi demo: installs Debian packages (1 min), builds Xen (3 min), the image (5 min) and"
	@echo "xfi (3 min), warms two snapshots of an emulated Xen host (2 min), runs 20 runs of a"
	@echo "campaign (1 min). All of it on this machine, in target/ and runs/. The second time"
	@echo "only the campaign is left."
	@$(MAKE) --no-print-directory testbed install
	@$(XFI) campaign run examples/demo.toml
	@echo
	@echo "next: xfi testbed up && xfi inject --reg rbx --bit 21"

test: testbed stock
	@echo "xfi test: lint, unit and property tests (5 min), then tests on the emulated testbed (13 min)"
	@$(MAKE) --no-print-directory lint
	xen-patches/tests/run.sh
	$(CARGO) test --workspace --release --no-fail-fast

test-lab: testbed stock
	@echo "xfi test-lab: what make test does, and the long tests (30 min)"
	xen-patches/tests/run.sh
	XFI_LAB=long $(CARGO) test --workspace --release --no-fail-fast

bench: testbed stock
	@echo "xfi bench: restores, 50 runs with two and ten clients, instruction counts, arming to firing,"
	@echo "the hooks' cost beside Debian's Xen, load drivers (25 min)"
	@scripts/install-packages.sh apt-packages-bench.txt
	@$(CARGO) bench --quiet -p xfi-campaign --bench figures
	@$(CARGO) bench --quiet -p xfi --bench workload

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --release --quiet -- -D warnings
	shellcheck $$(git ls-files '*.sh' .ci/run)

# --- what the above stand on -------------------------------------------------

# Everything that a testbed needs, each part cached by its content.
testbed: xen image agent xfi
# The same with Debian 12's Xen; only when asked for.
testbed-4.17: xen-4.17 image-4.17 agent xfi

deps:
	@$(SUDO) ansible/qemu-from-backports.sh
	@scripts/install-packages.sh

xen: deps
	@xen-patches/build.sh 4.20

# The same patches on Debian 12's Xen.
xen-4.17: deps
	@xen-patches/build.sh 4.17

# Debian's own Xen and the livepatch for it; the demo needs neither.
stock: deps
	@xen-patches/livepatch/build.sh 4.20

stock-4.17: deps
	@xen-patches/livepatch/build.sh 4.17

image: deps
	@$(SUDO) ansible/build-image.sh

image-4.17: deps
	@$(SUDO) ansible/build-image.sh bookworm

agent: xen
	@echo "building the agent (1 min the first time)"
	@scripts/build-agent.sh

xfi: deps
	@echo "building xfi (2 min the first time)"
	@$(CARGO) build --quiet --release -p xfi

# So that the commands of the README work as written.
install: xfi
	@scripts/install-link.sh

clean:
	-$(XFI) testbed down
	rm -rf target

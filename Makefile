# GNU make. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Cargo works in parallel by itself; two of its commands at once only wait for each other.
.NOTPARALLEL:

# Outside the checkout, and so outlives it: the EC2 client alone takes minutes to compile.
CARGO_TARGET_DIR ?= $(HOME)/.cache/node-agent/target
export CARGO_TARGET_DIR

# Every headline shows the time since this moment.
ifndef STAGES_SINCE
STAGES_SINCE := $(shell date +%s)
endif
export STAGES_SINCE

headline = @s=$$(( $$(date +%s) - STAGES_SINCE )); printf '\n== %d:%02d %s\n' $$((s / 60)) $$((s % 60)) '$(1)'

# Development builds always name the whole workspace: features are unified over what is selected, so that `-p` would
# compile the AWS clients once more.

.PHONY: help
help: ## List the targets
	@echo 'make TARGET; the targets:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-19s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'Built into $(CARGO_TARGET_DIR); CARGO_TARGET_DIR=… changes that.'

.PHONY: check
check: format-check ## The fast inner loop: format and types, nothing installed, nothing run
	$(call headline,check: does everything compile?)
	@cargo check --workspace --all-targets

.PHONY: test
test: needs-root tools format-check deny clippy doc doc-tests scenarios ## Everything that must hold; installs what it needs; needs root

.PHONY: demo
demo: needs-root packages ## Watch nodes come up and be rolled on a simulated EC2; four minutes; needs root, leaves nothing behind
	$(call headline,build: the agent and the simulated EC2)
	@cargo build --workspace
	$(call headline,demo)
	@NODE_AGENT='$(CARGO_TARGET_DIR)/debug/node-agent' '$(CARGO_TARGET_DIR)/debug/demo'

# What only whole machines show of the boot, the departure, a reboot and a power cut.
test-vm-short: VM_TESTS = user_data_brings a_leaving_node a_node_in_service_comes_up a_power_cut
.PHONY: test-vm test-vm-short
test-vm: ## Boot nodes on emulated machines against a simulated EC2; half an hour; needs root
test-vm-short: ## Four of the fourteen tests of that; a quarter of an hour; needs root
test-vm test-vm-short: needs-root
	$(call headline,tools: what is missing is installed)
	@.ci/tools packages cargo vm
	$(call headline,build: the agent and the tests)
	@cargo build --workspace --bins --test vm
	$(call headline,vm: disks; then machines that boot and lose their power)
	@.ci/vm $(VM_TESTS)

CLUSTER_TESTS = $(patsubst tests/%.rs,--test %,$(wildcard tests/cluster_*.rs))
test-clusters-short: CLUSTER_FILTER = -E 'test(comes_up_from_nothing)'
.PHONY: test-clusters test-clusters-short
test-clusters: ## Roll, kill and repair clusters of real etcd, ZooKeeper and Kafka servers while a client writes; forty minutes; needs root
test-clusters-short: ## One roll of each of these clusters; six minutes; needs root
test-clusters test-clusters-short: needs-root
	$(call headline,tools: what is missing is installed)
	@.ci/tools packages cargo clusters
	$(call headline,build: the agent and the tests)
	@cargo build --workspace --bins $(CLUSTER_TESTS)
	$(call headline,clusters: brought up; rolled; killed; repaired; taken back in)
	@cargo nextest run --workspace --profile clusters $(CLUSTER_TESTS) $(CLUSTER_FILTER)

.PHONY: test-rollback
test-rollback: needs-root packages ## Upgrade nodes from 0.1.0 and roll them back, in service, held, and in the middle of each step; needs root
	$(call headline,rollback: the agent of 0.1.0; nodes that change between the versions)
	@.ci/rollback

# BENCH='--only boots --runs 5', for example; BENCH=--help lists all options. What docs/performance.md holds is written by
# BENCH='--document docs/performance.md --plot docs/performance.svg'.
.PHONY: bench
bench: needs-root packages ## Measure boots beside their floors, fleets against quotas, a roll's plan, the service; an hour; needs root
	$(call headline,build: the agent as released)
	@cargo build --release -p node-agent
	$(call headline,build: the simulated EC2)
	@cargo build --release -p ec2-sim --bin bench
	$(call headline,bench)
	@NODE_AGENT='$(CARGO_TARGET_DIR)/release/node-agent' '$(CARGO_TARGET_DIR)/release/bench' $(BENCH)

.PHONY: dist
dist: needs-root ## Build what is shipped, for x86_64 and aarch64, and try it; takes an hour; needs root
	$(call headline,tools: what is missing is installed)
	@.ci/tools packages cargo dist
	$(call headline,dist: static binaries; packages; SBOM; checksums)
	@.ci/dist
	$(call headline,packages: installed; upgraded; removed in a clean Debian)
	@.ci/packages-test '$(CARGO_TARGET_DIR)/artifacts'
	$(call headline,aarch64: whole boots in QEMU)
	@.ci/dist-test '$(CARGO_TARGET_DIR)'/artifacts/node-agent-*-aarch64-linux

.PHONY: dist-test
dist-test: needs-root ## Put the x86_64 binary that `make dist` has built before the whole suite; needs root
	$(call headline,tools: what is missing is installed)
	@.ci/tools packages cargo
	@tests/corpus/fetch-util-linux
	$(call headline,tests: the static binary in every scenario)
	@.ci/dist-test '$(CARGO_TARGET_DIR)'/artifacts/node-agent-*-x86_64-linux

.PHONY: dist-reproducible
dist-reproducible: ## Build once more elsewhere, for x86_64: the same bytes as those of `make dist`?
	$(call headline,dist: a second time from another folder)
	@.ci/dist-reproducible

.PHONY: release-check
release-check: export NODE_AGENT_DEPARTURE_KILLS = 100
release-check: demo lint-packaging test test-rollback test-clusters dist dist-test dist-reproducible ## Before a release: all that CI runs, and what is shipped through the same, more kills, seeds and power cuts; four hours
	$(call headline,gate: two of three nodes told to go; forty clusters)
	@GATE_SEEDS=40 cargo nextest run --workspace --test gate --success-output final
	$(call headline,rolls: three hundred clusters with everything against them)
	@ROLL_SEEDS=300 cargo nextest run --workspace --test roll_seeds --success-output final
	$(call headline,vm: the packages on machines that boot and lose their power)
	@.ci/tools vm
	@cargo build --workspace --bins --test vm
	@DIST='$(CARGO_TARGET_DIR)/artifacts' NODE_AGENT_VM_CUTS=20 .ci/vm

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt --all

.PHONY: lint
lint: format-check clippy ## The format, and clippy with every warning an error

.PHONY: lint-packaging
lint-packaging: ## Shellcheck, cloud-init's schema, Packer and checkov over packaging/; fetches them once
	$(call headline,packaging: user data; images; Terraform)
	@.ci/packaging-lint

.PHONY: doc
doc: ## Build the documentation, private items too, with every warning an error
	$(call headline,doc: the documentation builds without a warning)
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items

.PHONY: deny
deny: tools ## Judge the dependencies: licences, banned crates, sources
	$(call headline,deny: licences; banned crates; sources)
	@cargo deny check --hide-inclusion-graph bans licenses sources

.PHONY: audit
audit: tools ## Look the dependencies up in the RustSec advisories; needs the network
	$(call headline,audit: known vulnerabilities; fetches the advisory database over the network)
	@cargo deny check advisories

.PHONY: tools
tools: ## Install what is missing of the tools that these targets use
	$(call headline,tools: what is missing is installed)
	@.ci/tools packages cargo
	@tests/corpus/fetch-util-linux

# The parts of the above.

.PHONY: packages
packages:
	$(call headline,packages: what is missing is installed)
	@.ci/tools packages

.PHONY: format-check
format-check:
	$(call headline,format: rustfmt would change nothing)
	@cargo fmt --all --check

.PHONY: clippy
clippy:
	$(call headline,clippy: every warning is an error)
	@cargo clippy --workspace --all-targets -- -D warnings

.PHONY: doc-tests
doc-tests:
	$(call headline,doc tests: the examples in the documentation run)
	@cargo test --doc --workspace

.PHONY: scenarios
scenarios: needs-root
	$(call headline,tests: units and whole-binary scenarios on real disks against a simulated EC2)
	@cargo nextest run --workspace
	@command -v terraform >/dev/null || echo 'NOT RUN: the plans and applies of the Terraform module, because there is no terraform on the path.'

.PHONY: needs-root
needs-root:
	@(( EUID == 0 )) || { echo 'This target makes loop devices and mounts filesystems: run it as root.' >&2; exit 1; }

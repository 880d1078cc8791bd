# image-mirror: build, try and test it. `make` lists the targets.

SHELL := bash
CARGO ?= cargo
KWCTL ?=
WASM_TARGET := wasm32-wasip1
export CARGO_TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
WASM := $(CARGO_TARGET_DIR)/$(WASM_TARGET)/wasm/image_mirror_policy.wasm
# The same with the names of its functions.
NAMED_WASM := $(CARGO_TARGET_DIR)/$(WASM_TARGET)/wasm/named.wasm
# The policy and the sidecar that the demo and the tests run.
BUILT := IMAGE_MIRROR_WASM=$(CURDIR)/policy.wasm MIRROR_SIDECAR_BIN=$(CARGO_TARGET_DIR)/debug/mirror-sidecar
# Without a path, kwctl is found by PATH; the demo uses it only if KWCTL is set.
KWCTL_PROGRAM := $(if $(findstring /,$(KWCTL)),$(abspath $(KWCTL)),$(or $(KWCTL),kwctl))
# Panic messages contain the paths of source files, which must not depend on the machine that builds. The policy hashes only
# names that are too long, so SHA-256 is built for size.
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src=crates --remap-path-prefix=$(CURDIR)=image-mirror --cfg sha2_backend_soft="compact"
# Most tests wait for processes and connections.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))
# Maximum size of the policy in KiB.
WASM_BUDGET := 300

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@echo "image-mirror keeps copies of the images that a cluster uses. Targets:"
	@grep -hE '^[a-zA-Z][a-zA-Z0-9._-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([^:]+):.*## /  \1\t/' | expand -t 28
	@echo "Start with: make demo"

.PHONY: build
build: policy.wasm sidecar ## Build the policy and the sidecar

.PHONY: sidecar
sidecar: toolchain ## Build mirror-sidecar for production (target/release)
	$(CARGO) build --locked --release -p mirror-sidecar

.PHONY: policy.wasm
policy.wasm: toolchain ## Build the policy as policy.wasm
	$(CARGO) build --locked --profile wasm --target $(WASM_TARGET) -p image-mirror-policy
	@# Not written while somebody reads it.
	@cmp --silent $(WASM) policy.wasm || { cp $(WASM) policy.new.wasm && mv policy.new.wasm policy.wasm; }

annotated-policy.wasm: policy.wasm metadata.yml README.md ## Build the policy with its metadata (needs kwctl)
	@command -v $(KWCTL_PROGRAM) >/dev/null || { echo "make $@ needs kwctl: https://docs.kubewarden.io/reference/kwctl-cli, or name it: make $@ KWCTL=/path/to/kwctl" >&2; exit 1; }
	$(KWCTL_PROGRAM) annotate -m metadata.yml -u README.md -o $@ policy.wasm

# Flags for the report, such as --top 30 or --functions 20.
SIZE ?=

.PHONY: policy-size
policy-size: policy.wasm ## Show what takes the space in the policy, fail above its budget (SIZE="--functions 20": more)
	@# Only the last link is another one, so this reuses all that policy.wasm was built from.
	$(CARGO) rustc --locked --profile wasm --target $(WASM_TARGET) -p image-mirror-policy -- -C strip=debuginfo
	cp $(WASM) $(NAMED_WASM)
	@# As `make test` builds it: fewer packages would have other features, and be compiled once more.
	$(CARGO) build --locked --workspace --bins --tests
	@$(CARGO_TARGET_DIR)/debug/policy-size policy.wasm --budget $(WASM_BUDGET) \
	--names $(NAMED_WASM) $(SIZE)

.PHONY: fuel-accept
fuel-accept: policy.wasm ## Accept the policy's instruction counts, against which the tests compare
	FUEL_ACCEPT=1 $(BUILT) $(CARGO) test --locked -p e2e-tests --test e2e -- fuel::no_case

.PHONY: demo
demo: policy.wasm $(if $(KWCTL),annotated-policy.wasm) ## Show the whole job on embedded registries (KWCTL=kwctl: with the real kwctl)
	$(CARGO) build --locked --profile demo -p mirror-sidecar -p demo
	@IMAGE_MIRROR_WASM=$(CURDIR)/policy.wasm MIRROR_SIDECAR_BIN=$(CARGO_TARGET_DIR)/demo/mirror-sidecar \
	$(if $(KWCTL),IMAGE_MIRROR_ANNOTATED_WASM=$(CURDIR)/annotated-policy.wasm) \
	$(CARGO_TARGET_DIR)/demo/demo examples/deployment.yaml $(if $(KWCTL),--kwctl $(KWCTL))

.PHONY: test
test: prepare lint policy-size ## Check formatting and lints, run all tests, with helm and the real kwctl too, fuzz for a moment
	$(CARGO) build --locked --workspace --bins --tests
	@# The tests of the workspace mostly wait for processes, so the others run beside them; their output follows at the end.
	@log=$$(mktemp); status=0; \
	nice $(MAKE) --no-print-directory other-tests >$$log 2>&1 & others=$$!; trap 'kill $$others' INT TERM; \
	$(BUILT) KWCTL=$(KWCTL_PROGRAM) $(CARGO) test --locked --workspace || status=$$?; \
	wait $$others || status=$$?; cat $$log; rm -f $$log; exit $$status
	@$(MAKE) --no-print-directory e2e

.PHONY: other-tests
other-tests:
	@$(BUILT) $(MAKE) --no-print-directory chart-test
	@$(BUILT) $(MAKE) --no-print-directory docs-test
	@$(MAKE) --no-print-directory publish-test
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=5

.PHONY: docs-test
docs-test: ## Run the code blocks of the docs, look up their links and names (DOCS_TEST="test_blocks -k uninstall")
	@./docs/tests/run.sh $(DOCS_TEST)

.PHONY: e2e
e2e: prepare ## Run the policy in the real kwctl, if it is installed: recorded sessions, a live sidecar
	@missing=$$(for tool in $(KWCTL_PROGRAM) bats jq; do command -v $$tool >/dev/null || echo " $$tool"; done); \
	if [ -z "$$missing" ]; then $(MAKE) --no-print-directory run-e2e; \
	else echo "SKIPPED: the policy was NOT run in the real kwctl. Not found:" $$missing "(make e2e KWCTL=/path/to/kwctl)" >&2; fi

# The same command as in make test, so nothing is built twice.
.PHONY: run-e2e
run-e2e: annotated-policy.wasm
	$(CARGO) build --locked --workspace --bins --tests
	$(BUILT) KWCTL=$(KWCTL_PROGRAM) WASM=$(CURDIR)/$< STAGE=$(CARGO_TARGET_DIR)/debug/stage bats e2e-tests/e2e.bats

# For each fuzz target.
FUZZ_SECONDS ?= 20

# Flags for the drill, such as --seed 7 or --small.
DRILL ?=

.PHONY: drill
drill: prepare policy.wasm ## Stop the upstream registry, create all workloads again, pull all their images (DRILL="--seed 7")
	$(CARGO) build --locked -p mirror-sidecar -p e2e-tests --bin mirror-sidecar --bin drill
	@$(BUILT) $(CARGO_TARGET_DIR)/debug/drill $(DRILL)

# Name or address of this machine as the cluster sees it, for the webhook.
WEBHOOK_HOST ?=
# Filter for the cluster tests.
TESTS ?=

.PHONY: e2e-cluster
e2e-cluster: prepare policy.wasm ## Run the cluster tests on the cluster of KUBECONFIG (WEBHOOK_HOST=this machine, as seen from there)
	@test -n "$(KUBECONFIG)" || { echo "make $@ needs KUBECONFIG: the file that names the cluster, with all rights there" >&2; exit 1; }
	@test -n "$(WEBHOOK_HOST)" || echo "NOTE: without WEBHOOK_HOST the API server must reach the webhook at 127.0.0.1: it must run on this machine, in the host's network" >&2
	$(CARGO) build --locked -p mirror-sidecar -p e2e-tests --tests --bins
	$(BUILT) E2E_KUBECONFIG=$(abspath $(KUBECONFIG)) WEBHOOK_HOST=$(WEBHOOK_HOST) \
	$(CARGO) test --locked -p e2e-tests --test cluster -- $(TESTS)

.PHONY: chaos
chaos: prepare policy.wasm ## Run the chaos test: crashes, partitions and outages at random (CHAOS_SEED=7 CHAOS_ROUNDS=3)
	$(CARGO) build --locked -p mirror-sidecar
	$(BUILT) CLUSTER_TESTS=required CHAOS_SEED=$(or $(CHAOS_SEED),$$RANDOM) CHAOS_ROUNDS=$(or $(CHAOS_ROUNDS),3) \
	$(CARGO) test --locked -p e2e-tests --test cluster -- chaos --nocapture

.PHONY: fuzz
fuzz: prepare ## Fuzz what reaches the policy and the copy engine (FUZZ_SECONDS=20 for each target)
	@FUZZ_TARGET_DIR=$(CARGO_TARGET_DIR)/fuzz CARGO_TARGET_DIR=$(CARGO_TARGET_DIR) ./e2e-tests/fuzz.sh $(FUZZ_SECONDS)

# Flags for the bench, such as --quick or --only tiny --latency 40.
BENCH ?=

.PHONY: bench-copy
bench-copy: prepare sidecar ## Compare copying with other tools (BENCH=--quick: see that it works), write docs/bench-copy.md
	$(CARGO) build --locked --profile bench-copy -p benches --bin bench-copy
	MIRROR_SIDECAR_BIN=$(CARGO_TARGET_DIR)/release/mirror-sidecar $(CARGO_TARGET_DIR)/bench-copy/bench-copy $(BENCH)

.PHONY: bench-cluster
bench-cluster: prepare sidecar ## Measure the sidecar in a large cluster (BENCH=--quick: a tenth of it), write docs/bench-cluster.md
	$(CARGO) build --locked --profile bench-copy -p benches --bin bench-cluster
	MIRROR_SIDECAR_BIN=$(CARGO_TARGET_DIR)/release/mirror-sidecar $(CARGO_TARGET_DIR)/bench-copy/bench-cluster $(BENCH)

# Flags for the attacks, such as --only "Log".
ATTACK ?=

.PHONY: attack
attack: prepare sidecar policy.wasm ## Attack the release build within the chart's limits (ATTACK="--only token"), write docs/security.md
	$(CARGO) build --locked --profile bench-copy -p e2e-tests --bin attack
	IMAGE_MIRROR_WASM=$(CURDIR)/policy.wasm MIRROR_SIDECAR_BIN=$(CARGO_TARGET_DIR)/release/mirror-sidecar $(CARGO_TARGET_DIR)/bench-copy/attack $(ATTACK)

.PHONY: faults
faults: toolchain ## Run every fault of a server against every request, write docs/faults.md
	FAULTS_WRITE=1 $(CARGO) test --locked -p e2e-tests --test engine -- fault_matrix

# Flags for the soak, such as --seconds 300 or --rate 100.
SOAK ?=

.PHONY: soak
soak: prepare sidecar ## Put 200 requests a second on the sidecar for 30 minutes (SOAK="--seconds 300"), write docs/bench-soak.md
	$(CARGO) build --locked --profile bench-copy -p benches --bin soak
	MIRROR_SIDECAR_BIN=$(CARGO_TARGET_DIR)/release/mirror-sidecar $(CARGO_TARGET_DIR)/bench-copy/soak $(SOAK)

# Another policy's module to compare with, and its settings as JSON.
AGAINST ?=
AGAINST_SETTINGS ?= {}

.PHONY: bench-policy
bench-policy: policy.wasm ## Measure the policy (AGAINST=other.wasm AGAINST_SETTINGS='{...}': and another), write docs/bench-policy.md
	$(CARGO) build --locked --profile bench-copy -p benches --bench policy
	@POLICY_BENCH_AGAINST='$(abspath $(AGAINST))' POLICY_BENCH_AGAINST_SETTINGS='$(AGAINST_SETTINGS)' \
	CRITERION_HOME=$(CARGO_TARGET_DIR)/criterion $(BUILT) \
	$(CARGO) bench --locked --quiet --profile bench-copy -p benches --bench policy

.PHONY: lint
lint: toolchain lint-files ## Check formatting and lints
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --target $(WASM_TARGET) -p image-mirror-policy -p mirror-contract -- -D warnings

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: toolchain
toolchain:
	@./e2e-tests/prepare.sh compiler
	@test -d "$$(rustc --print target-libdir --target $(WASM_TARGET))" || rustup target add $(WASM_TARGET)

.PHONY: prepare
prepare: ## Install the test tools besides Rust, if possible
	@./e2e-tests/prepare.sh

include charts/chart.mk
include publish/publish.mk

.PHONY: clean
clean: ## Remove all build results
	$(CARGO) clean
	rm -f policy.wasm annotated-policy.wasm

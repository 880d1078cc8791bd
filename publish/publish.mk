# The image of mirror-sidecar and what releases need. Included by the Makefile at the top.

# What the tests of the image run: a release takes minutes longer to build. `IMAGE_TEST_PROFILE=release` tests that.
IMAGE_TEST_PROFILE ?= dev

.PHONY: image
image: ## Build the image of mirror-sidecar with docker or podman (IMAGE=name ARCH=arm64)
	@./publish/image.sh engine $(IMAGE)

.PHONY: image-oci
image-oci: ## Build the same image as an OCI archive in dist/, without a container engine (ARCH=arm64)
	@./publish/image.sh oci dist/mirror-sidecar.oci.tar

.PHONY: released-policy
released-policy: ## Build the policy as Kubewarden's workflow for releases does, fail above its budget
	env --unset CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS $(CARGO) build --locked --release --target $(WASM_TARGET)
	@size=$$(stat --format %s $(CARGO_TARGET_DIR)/$(WASM_TARGET)/release/*.wasm) && echo "the policy has $$((size / 1024)) KiB" && \
	[ "$$size" -le $$(($(WASM_BUDGET) * 1024)) ] || { echo "its budget is $(WASM_BUDGET) KiB" >&2; exit 1; }

.PHONY: publish-test
publish-test: prepare ## Test the image's archive, versions, workflows and all that is published
	@PROFILE=$(IMAGE_TEST_PROFILE) CARGO_PROFILE_DEV_DEBUG=false CARGO_PROFILE_DEV_STRIP=symbols \
	./publish/tests/run.sh $(CARGO_TARGET_DIR)/mirror-sidecar.oci.tar

.PHONY: lint-files
lint-files: ## Check scripts, workflows, the Dockerfile and the crates
	@./publish/lint-files.sh

.PHONY: release-check
release-check: ## Check that all files have the same version, and the tag (TAG=v1.2.3)
	@./publish/versions.py check $(TAG)

.PHONY: bump
bump: ## Write a new version everywhere (VERSION=1.2.3)
	@./publish/versions.py bump $(VERSION)

# Kubewarden's workflow for releases calls these by their names.
.PHONY: e2e-tests
e2e-tests: run-e2e

# The chart: check it, install it, render it. Included by the Makefile at the top.

# The image of mirror-sidecar, for clusters on this machine.
IMAGE ?= ghcr.io/image-mirror/mirror-sidecar:v0.1.0
# make hands on what is set in its command or environment, and only that: other programs read some of these names, too, and
# empty is not unset. As it is written, since make would look for variables after a `$`, as in robot$mirror.
$(foreach name,REGISTRY_USERNAME REGISTRY_PASSWORD PULL_USERNAME PULL_PASSWORD,\
$(if $(filter-out undefined,$(origin $(name))),$(eval override export $(name) := $$(value $(name)))))

.PHONY: chart-test
chart-test: ## Check the chart: lint, schemas, reviewed renders, upgrades (ACCEPT=1: write the renders anew)
	@./charts/image-mirror/tests/run.sh $(CHART_TEST)

.PHONY: chart-readme
chart-readme: ## Write the chart's README.md from its values.yaml
	./charts/scripts/readme.py

.PHONY: deploy
deploy: ## Install in the current cluster (REGISTRY, REPOSITORY, REGISTRY_USERNAME, ...; DRY_RUN=1: print the manifests)
	@./charts/scripts/deploy.sh

.PHONY: undeploy
undeploy: ## Remove what deploy installed; what runs keeps its copies
	@./charts/scripts/undeploy.sh

.PHONY: manifests
manifests: ## Render plain manifests into dist/ for people without Helm (VALUES=file)
	@test -n "$(VALUES)" || { echo "which values? For example: make manifests VALUES=charts/image-mirror/ci/passwords-values.yaml" >&2; exit 1; }
	@. ./charts/scripts/programs.sh && find_programs && \
	./charts/scripts/manifests.py "$$HELM" dist "$(or $(NAMESPACE),image-mirror)" "$(VALUES)"

.PHONY: start-local-cluster
start-local-cluster: ## Make a cluster on this machine with Kubewarden in it (needs kind)
	@./charts/scripts/kind.sh start

.PHONY: stop-local-cluster
stop-local-cluster: ## Remove that cluster
	@./charts/scripts/kind.sh stop

.PHONY: kind-load
kind-load: ## Bring the image of mirror-sidecar into that cluster (IMAGE=name)
	@./charts/scripts/kind.sh load $(IMAGE)

.PHONY: local-deploy
local-deploy: ## All of it: the cluster, the image, the chart
	@$(MAKE) --no-print-directory start-local-cluster
	@$(MAKE) --no-print-directory kind-load
	@HELM_KUBECONTEXT=kind-$(or $(CLUSTER),image-mirror) $(MAKE) --no-print-directory deploy SIDECAR_IMAGE=$(IMAGE)

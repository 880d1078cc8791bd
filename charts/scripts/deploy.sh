#!/usr/bin/env bash
# Installs or upgrades the chart in the cluster of the current context (or of HELM_KUBECONTEXT), with the variables of image-clone-controller:
#
#   REGISTRY              the registry that keeps the copies
#   REPOSITORY            the repository below which they go
#   REGISTRY_USERNAME     user that may push. Without PULL_USERNAME, and without `pull` in VALUES, Pods pull as the same user:
#                         whoever can read Secrets in a namespace can then push, and a warning says so
#   REGISTRY_PASSWORD     password of that user
#   PULL_USERNAME, PULL_PASSWORD       user that may only read
#   EXCLUDE_NAMESPACES    namespaces that are left alone, with commas between them
#   KUBEWARDEN_NAMESPACE  where Kubewarden runs; by default it is looked for
#   SIDECAR_IMAGE         the image of mirror-sidecar, instead of the published one
#   POLICY_SERVER_IMAGE   the image of the policy server; by default that of the Kubewarden in the cluster
#   NAMESPACE, RELEASE    image-mirror by default
#   VALUES                a file with more values for the chart
#   HELM_FLAGS            more flags for helm upgrade, such as --wait
#   DRY_RUN=1             prints the manifests, secrets included, without looking at a cluster
#   HELM, KUBECTL         programs
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
chart=$here/../image-mirror
# shellcheck source=charts/scripts/programs.sh
. "$here/programs.sh"

NAMESPACE=${NAMESPACE:-image-mirror}
RELEASE=${RELEASE:-image-mirror}
# The oldest version with capabilities of the host that are granted one by one.
OLDEST=1.35.0

main() {
  [ -n "${REGISTRY-}" ] || [ -n "${VALUES-}" ] ||
    stop "no backup registry; set REGISTRY, for example: REGISTRY_PASSWORD=... make deploy REGISTRY=ghcr.io REPOSITORY=acme REGISTRY_USERNAME=bot (passwords before make: who lists processes sees what is after it)"
  find_programs
  # Passwords go through a file that nobody else can read: flags can be seen by others.
  umask 077
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  if ! is_dry_run; then
    choose_cluster
    check_cluster
  fi
  values >"$work/values.json"

  arguments=("$RELEASE" "$chart" --namespace "$NAMESPACE" --values "$work/values.json")
  [ -z "${VALUES-}" ] || arguments+=(--values "$VALUES")
  if is_dry_run; then
    "$HELM" template "${arguments[@]}"
    return
  fi
  # shellcheck disable=SC2086
  "$HELM" upgrade --install --create-namespace ${HELM_FLAGS-} "${arguments[@]}" ${CONTEXT_OF_HELM[@]+"${CONTEXT_OF_HELM[@]}"}
}

# Says what is missing before helm fails half way.
check_cluster() {
  kubectl_here version --request-timeout=10s >/dev/null 2>&1 ||
    stop "no cluster answers: kubectl config current-context says \"$("$KUBECTL" config current-context 2>/dev/null)\". A local one: make start-local-cluster"
  kubectl_here get customresourcedefinitions policyservers.policies.kubewarden.io clusteradmissionpolicies.policies.kubewarden.io >/dev/null 2>&1 ||
    stop "the cluster has no Kubewarden: https://docs.kubewarden.io/quick-start"
  local controller
  controller=$(kubectl_here get deployments --all-namespaces \
    --selector app.kubernetes.io/part-of=kubewarden,app.kubernetes.io/component=controller \
    --output jsonpath='{range .items[*]}{.metadata.namespace}{" "}{.spec.template.spec.containers[0].image}{"\n"}{end}' | head -n 1)
  if [ -z "$controller" ]; then
    echo "NOTE: Kubewarden's controller was not found, so its version is not checked; its namespace is taken to be ${KUBEWARDEN_NAMESPACE:=kubewarden} (KUBEWARDEN_NAMESPACE)" >&2
    return
  fi
  KUBEWARDEN_NAMESPACE=${KUBEWARDEN_NAMESPACE:-${controller%% *}}
  local image=${controller#* } version
  version=$(sed -nE 's/.*:v?([0-9]+\.[0-9]+\.[0-9]+[^ @]*).*/\1/p' <<<"$image")
  if [ -z "$version" ]; then
    echo "NOTE: the image of Kubewarden's controller, $image, does not say its version, so that is not checked, and the policy server is the chart's default unless POLICY_SERVER_IMAGE says which" >&2
    return
  fi
  [ "$(printf '%s\n' "$OLDEST" "$version" | sort -V | head -n 1)" = "$OLDEST" ] ||
    stop "Kubewarden $version is too old: $OLDEST or newer is needed"
  echo "Kubewarden $version in the namespace $KUBEWARDEN_NAMESPACE" >&2
  # The policy server of the same version, from the same place: .../controller or .../kubewarden-controller.
  [ -n "${POLICY_SERVER_IMAGE-}" ] || POLICY_SERVER_IMAGE=$(sed -nE 's#^(.*/)[a-z-]*controller(:[^/@]*)(@.*)?$#\1policy-server\2#p' <<<"$image")
  [ -n "$POLICY_SERVER_IMAGE" ] ||
    stop "Kubewarden's controller is $image, which does not tell the name of the policy server's image: POLICY_SERVER_IMAGE=name:$version"
}

kubectl_here() {
  "$KUBECTL" "$@" ${CONTEXT_OF_KUBECTL[@]+"${CONTEXT_OF_KUBECTL[@]}"}
}

# The values as JSON. Python's standard library writes it, whatever is in a password.
values() {
  export REGISTRY REPOSITORY REGISTRY_USERNAME REGISTRY_PASSWORD PULL_USERNAME PULL_PASSWORD EXCLUDE_NAMESPACES KUBEWARDEN_NAMESPACE SIDECAR_IMAGE VALUES
  export POLICY_SERVER_IMAGE
  python3 "$here/values.py"
}

main

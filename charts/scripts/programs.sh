# Finds helm and kubectl: those that are named, those on the PATH, else those that tools.sh installs. To be sourced.
# shellcheck shell=bash

# Sets HELM and KUBECTL, or stops.
find_programs() {
  HELM=${HELM:-$(command -v helm || true)}
  KUBECTL=${KUBECTL:-$(command -v kubectl || true)}
  [ -z "$HELM" ] || [ -z "$KUBECTL" ] || return 0
  local folders
  folders=$("$(dirname "${BASH_SOURCE[0]}")/tools.sh" helm) ||
    stop "helm and kubectl are needed: https://helm.sh/docs/intro/install (or name them: HELM=/path/to/helm KUBECTL=/path/to/kubectl)"
  HELM=${HELM:-${folders%%:*}/helm}
  KUBECTL=${KUBECTL:-${folders%%:*}/kubectl}
}

# Makes kubectl and helm look at the same cluster, and says at which: sets CONTEXT_OF_KUBECTL and CONTEXT_OF_HELM, lists of
# flags, or stops. Some variables are read by helm alone.
# shellcheck disable=SC2034
choose_cluster() {
  local name context
  for name in HELM_KUBEAPISERVER HELM_KUBETOKEN HELM_KUBECAFILE HELM_KUBEASUSER HELM_KUBEASGROUPS; do
    [ -z "${!name-}" ] || stop "$name is set, which kubectl does not know, so the two might not look at the same cluster: unset it, and choose by KUBECONFIG and its context"
  done
  CONTEXT_OF_KUBECTL=() CONTEXT_OF_HELM=()
  context=${HELM_KUBECONTEXT:-$("$KUBECTL" config current-context 2>/dev/null || true)}
  [ -n "$context" ] || return 0
  CONTEXT_OF_KUBECTL=(--context "$context") CONTEXT_OF_HELM=(--kube-context "$context")
  echo "Context $context" >&2
}

# Whether DRY_RUN is set, and is no word for no.
is_dry_run() {
  case ${DRY_RUN-} in "" | 0 | false | no | off) return 1 ;; esac
}

# Says what is wrong, and ends.
stop() {
  echo "$1" >&2
  exit 1
}

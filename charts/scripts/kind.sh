#!/usr/bin/env bash
# A cluster on this machine, in containers, with Kubewarden in it. Needs kind and docker (or podman).
#
# Usage: kind.sh start          makes the cluster and installs Kubewarden
#        kind.sh stop           removes it
#        kind.sh load IMAGE...  brings images of this machine into it
#
# CLUSTER is its name, image-mirror by default; KIND, HELM and KUBECTL name the programs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=charts/scripts/programs.sh
. "$here/programs.sh"

KIND=${KIND:-kind}
CLUSTER=${CLUSTER:-image-mirror}

command -v "$KIND" >/dev/null || stop "kind is needed: https://kind.sigs.k8s.io (or name it: KIND=/path/to/kind)"

case "${1-}" in
start)
  find_programs
  if ! "$KIND" get clusters 2>/dev/null | grep -qx "$CLUSTER"; then
    "$KIND" create cluster --name "$CLUSTER" --wait 120s
  fi
  "$KUBECTL" config use-context "kind-$CLUSTER"
  "$HELM" upgrade --install admission-controller admission-controller --repo https://charts.kubewarden.io \
    --namespace kubewarden --create-namespace --wait --timeout 5m --kube-context "kind-$CLUSTER"
  ;;
stop)
  "$KIND" delete cluster --name "$CLUSTER"
  ;;
load)
  shift
  [ $# -gt 0 ] || stop "which images?"
  "$KIND" load docker-image --name "$CLUSTER" "$@"
  ;;
*)
  stop "kind.sh start, stop, or load IMAGE..."
  ;;
esac

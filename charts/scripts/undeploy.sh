#!/usr/bin/env bash
# Removes the release that deploy.sh made. What runs goes on with its copies and its pull Secrets; the namespace stays, and so
# do Secrets in it that the chart did not make. With DRY_RUN=1 it only says what it would do. NAMESPACE, RELEASE, HELM and KUBECTL are those of deploy.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=charts/scripts/programs.sh
. "$here/programs.sh"

find_programs
command=("$HELM" uninstall "${RELEASE:-image-mirror}" --namespace "${NAMESPACE:-image-mirror}")
if is_dry_run; then
  echo "${command[@]}"
  exit 0
fi
choose_cluster
"${command[@]}" ${CONTEXT_OF_HELM[@]+"${CONTEXT_OF_HELM[@]}"}
cat <<'END'

What runs keeps its copies, and the pull Secrets that it needs for them. To return to the originals, apply your manifests again,
and when no Pod uses copies any more, delete the pull Secrets:
  kubectl delete secrets --all-namespaces --selector app.kubernetes.io/managed-by=image-mirror
END

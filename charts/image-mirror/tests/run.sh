#!/usr/bin/env bash
# Checks the chart. Without helm and the Python packages, which charts/scripts/tools.sh gets, it says SKIPPED, and fails
# where CI is set.
#
#   run.sh                        all tests
#   run.sh test_upgrade           those of one file; more arguments are those of Python's unittest
#   ACCEPT=1 run.sh test_render   writes the golden renders anew: read the difference
#   KUBEWARDEN_CRDS=folder run.sh compares with the definitions of Kubewarden's types in that folder, too. That is optional
#                                 everywhere, also where CI is set: no test downloads them
#
# MIRROR_SIDECAR_BIN names the sidecar that the chart is tried with; by default target/debug/mirror-sidecar.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if ! path=$("$here/../../scripts/tools.sh"); then
  echo "SKIPPED: the chart was NOT checked" >&2
  [ -z "${CI-}" ] || exit 1
  exit 0
fi
root=$here/../../..
export MIRROR_SIDECAR_BIN=${MIRROR_SIDECAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/mirror-sidecar}
if [ ! -x "$MIRROR_SIDECAR_BIN" ]; then
  echo "SKIPPED: the chart was NOT tried with the real sidecar: there is no $MIRROR_SIDECAR_BIN (cargo build -p mirror-sidecar)" >&2
  [ -z "${CI-}" ] || exit 1
  unset MIRROR_SIDECAR_BIN
fi
# Without it test_alerts decides what that means.
if promtool=$("$here/../../scripts/promtool.sh"); then path=$path:$promtool; fi
export PATH="$path:$PATH"
cd "$here"
if [ $# -gt 0 ]; then
  exec python -B -m unittest "$@"
fi
yamllint --strict -c yamllint.yaml ../Chart.yaml ../values.yaml ../questions.yaml ../ci ../files golden alerts.yaml
exec python -B -m unittest discover

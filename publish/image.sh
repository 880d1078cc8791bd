#!/usr/bin/env bash
# Builds the image of mirror-sidecar.
#
# Usage: image.sh engine NAME           with docker or podman, for this machine's architecture or that in ARCH
#        image.sh oci ARCHIVE           as an OCI archive, with cargo and Python alone
#
# VERSION is that of Cargo.toml; REVISION and CREATED are those of the commit. CONTAINER_ENGINE names docker or podman.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=publish/debian.sh
. "$here/debian.sh"

# By default what this machine runs.
architecture() {
  case "$(uname -m)" in
  x86_64) echo amd64 ;;
  aarch64 | arm64) echo arm64 ;;
  *) uname -m ;;
  esac
}

# The first engine that answers: a client without its daemon builds nothing.
find_engine() {
  local engine
  for engine in ${CONTAINER_ENGINE:-docker podman}; do
    if command -v "$engine" >/dev/null && "$engine" info >/dev/null 2>&1; then
      echo "$engine"
      return
    fi
  done
  stop "make image needs docker or podman, with its daemon running. Without one: make image-oci"
}

cd "$here/.."
VERSION=${VERSION:-$("$here/versions.py" show)}
REVISION=${REVISION:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
CREATED=${CREATED:-$(date --utc --date "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%S+00:00)}
export VERSION REVISION SOURCE_DATE_EPOCH CREATED
arch=${ARCH:-$(architecture)}

case "${1-}" in
engine)
  program=$(find_engine)
  # BuildKit knows the stage's cache folders and on which architecture it runs; podman does without being told.
  DOCKER_BUILDKIT=1 "$program" build --platform "linux/$arch" --build-arg "VERSION=$VERSION" --build-arg "REVISION=$REVISION" \
    --build-arg "CREATED=$CREATED" --build-arg "SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" --tag "$2" .
  ;;
oci)
  root=$(mktemp -d)
  trap 'rm -rf "$root"' EXIT
  "$here/image-root.sh" "$arch" "$root"
  mkdir -p "$(dirname "$2")"
  "$here/oci.py" "$arch" "$root" "$2"
  size=$(stat --format %s "$2")
  echo "$2: $((size / 1024)) KiB, $(sha256sum "$2" | cut -d ' ' -f 1); mirror-sidecar in it: $(($(stat --format %s "$root/mirror-sidecar") / 1024)) KiB"
  # Only what is published is held to the limit: a program for tests is larger.
  [ "${PROFILE:-release}" != release ] || [ "$size" -le $((15 * 1024 * 1024)) ] || stop "the archive is larger than 15 MiB"
  ;;
*)
  stop "image.sh engine NAME, or oci ARCHIVE"
  ;;
esac

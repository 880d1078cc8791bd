#!/usr/bin/env bash
# Tests what is published. Builds the image's archive first; where that cannot be had, it says SKIPPED, and fails where CI is
# set.
#
# Usage: run.sh ARCHIVE     where to put it; PROFILE is cargo's profile
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

code=0
"$here/../image.sh" oci "$1" || code=$?
# 3: something for it cannot be had on this machine.
if [ "$code" -eq 3 ] && [ -z "${CI-}" ]; then
  echo "SKIPPED: the image was NOT built, and its program NOT run" >&2
elif [ "$code" -ne 0 ]; then
  exit "$code"
else
  export IMAGE_ARCHIVE=$1
fi
cd "$here"
exec python3 -B -m unittest discover

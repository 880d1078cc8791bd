#!/usr/bin/env bash
# Installs what the build and the tests use beyond Rust: a C compiler, a real registry, and skopeo as a second opinion.
# Without the rights or without apt it says what is missing; the tests then use their embedded registry.
set -euo pipefail

declare -A package=([cc]=gcc [docker-registry]=docker-registry [skopeo]=skopeo)
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || true
  for name in "${missing[@]}"; do
    apt-get install -y -qq --no-install-recommends "$name" >/dev/null || echo "NOTE: $name could not be installed" >&2
  done
else
  echo "NOTE: not installed: ${missing[*]} (on Debian: apt-get install ${missing[*]})" >&2
fi

for program in docker-registry skopeo; do
  command -v "$program" >/dev/null ||
    echo "NOTE: without $program the tests go on with the embedded registry and the project's own client alone" >&2
done
command -v cc >/dev/null || { echo "a C compiler is needed: install gcc" >&2; exit 1; }

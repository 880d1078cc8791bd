#!/usr/bin/env bash
# Installs what the build and the tests use beyond Rust: a C compiler, a real registry, skopeo as a second opinion, a real
# API server, a browser with its WebDriver server, jq, cargo-fuzz with the C++ compiler that its library needs, and bats where there is a kwctl for it.
# Without the rights or without apt it says what is missing; the tests then use their embedded registry, no API server,
# and no fuzzer.
#
# Usage: prepare.sh [compiler]    "compiler" stops after the C compiler, which is all that building needs.
set -euo pipefail

can_link() {
  printf 'int main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null
}

can_link_cpp() {
  printf 'int main() { return 0; }\n' | c++ -x c++ -o /dev/null - 2>/dev/null
}

install() {
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "NOTE: not installed: $* (on Debian: apt-get install $*)" >&2
    return
  fi
  echo "installing $*"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || true
  # Packages start their services unless this says no; only the tests' own registry is wanted.
  local refusal=/usr/sbin/policy-rc.d
  if [ ! -e "$refusal" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$refusal"
    chmod +x "$refusal"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    echo "NOTE: could not be installed: $*" >&2
}

can_link || install gcc libc6-dev
can_link || { echo "a C compiler is needed: install gcc and the C library's headers" >&2; exit 1; }
[ "${1-}" = compiler ] && exit 0

missing=()
# The path at which the tests look for it.
[ -x /usr/bin/docker-registry ] || missing+=(docker-registry)
command -v skopeo >/dev/null || missing+=(skopeo)
# The path at which the tests look for it.
[ -x /usr/bin/chromedriver ] || missing+=(chromium chromium-driver)
# Makes certificates for the tests of the image.
command -v openssl >/dev/null || missing+=(openssl)
can_link_cpp || missing+=(g++)
# Unpacks the source of the API server.
command -v dpkg-source >/dev/null || missing+=(dpkg-dev)
# The tests of the docs run what the docs say, and that uses jq.
command -v jq >/dev/null || missing+=(jq)
kwctl=${KWCTL:-kwctl}
if command -v "$kwctl" >/dev/null; then
  command -v bats >/dev/null || missing+=(bats)
fi
[ ${#missing[@]} -eq 0 ] || install "${missing[@]}"

"$(dirname "$0")/apiserver.sh"

# A debug build: this program is run once or twice, and the optimiser takes longer than that.
cargo fuzz --version >/dev/null 2>&1 || {
  echo "installing cargo-fuzz"
  cargo install --quiet --locked --debug cargo-fuzz@0.13.2 ||
    echo "NOTE: could not be installed: cargo-fuzz" >&2
}

[ -x /usr/bin/docker-registry ] ||
  echo "NOTE: without docker-registry the tests use the embedded registry alone" >&2
command -v skopeo >/dev/null ||
  echo "NOTE: without skopeo no second client pulls the copies" >&2
[ -x /usr/bin/chromedriver ] ||
  echo "NOTE: without chromium-driver no browser opens the status page" >&2
cargo fuzz --version >/dev/null 2>&1 && can_link_cpp ||
  echo "NOTE: without cargo-fuzz and a C++ compiler nothing is fuzzed, the kept corpus is tested alone" >&2
command -v "$kwctl" >/dev/null ||
  echo "NOTE: without kwctl the test host is not compared with the real one (KWCTL=/path/to/kwctl names it)" >&2

# Installs Debian's packages where that is possible. To be sourced.
# shellcheck shell=bash

# Installs these packages, or does nothing: whoever needs them looks for them afterwards, and says what is missing.
apt_install() {
  [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 0
  echo "installing $*" >&2
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null 2>&1 || true
}

# Says what is wrong, and ends: stop MESSAGE [CODE]. By convention code 3 is for what cannot be had on this machine.
stop() {
  echo "$1" >&2
  exit "${2-1}"
}

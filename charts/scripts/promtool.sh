#!/usr/bin/env bash
# Says in which folder promtool is: the one on the PATH, else the one out of Debian's package prometheus, which is a server
# with a user and a unit, of which nothing else is wanted. It is put in ${XDG_CACHE_HOME:-~/.cache}/image-mirror/tools.
#
# Exit code 3: it cannot be had here.
set -euo pipefail

if found=$(command -v promtool); then
  dirname "$found"
  exit
fi
tools=${XDG_CACHE_HOME:-$HOME/.cache}/image-mirror/tools
folder=$tools/promtool
mkdir -p "$tools"
# Two runs at once must not do it twice.
exec 9>"$tools/promtool.lock"
flock 9
if [ ! -x "$folder/promtool" ]; then
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 3
  echo "installing promtool in $folder" >&2
  work=$(mktemp -d "$tools/new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } >/dev/null 2>&1 || exit 3
  mkdir new
  dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -C new --strip-components=3 ./usr/bin/promtool
  rm -rf "$folder"
  mv new "$folder"
fi
echo "$folder"

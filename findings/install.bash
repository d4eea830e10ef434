# Read by the scripts beside it. It makes a temporary folder, the working directory from here on, which goes with the
# script, and says how packages get into it. Nothing is installed on the machine.
# shellcheck shell=bash
set -uo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2

# gone ends a script whose software can no longer be had.
gone() { echo "not available here: $*"; exit 2; }

# changed ends a script whose software behaves in another way than stated.
changed() { echo "changed: $*"; exit 1; }

# debs unpacks Debian packages into the folder: NAME=VERSION for what is looked at, NAME for a library of any version.
debs() {
  command -v apt-get dpkg-deb >/dev/null || gone "apt-get and dpkg-deb"
  mkdir root
  apt-get download -qq "$@" >/dev/null 2>&1 || gone "$*"
  for file in *.deb; do dpkg-deb -x "$file" root; done
  PATH=$folder/root/usr/bin:$PATH
  LD_LIBRARY_PATH=$(echo "$folder"/root/lib/*-linux-gnu "$folder"/root/usr/lib/*-linux-gnu | tr ' ' :)
  export PATH LD_LIBRARY_PATH
}

# gomodules makes a Go module in the folder that requires MODULE@VERSION and no other version of it.
gomodules() {
  command -v go >/dev/null || gone "go"
  export GOFLAGS=-mod=mod
  go mod init finding 2>/dev/null
  for m in "$@"; do go get "$m" >/dev/null 2>&1 || gone "$m"; done
}

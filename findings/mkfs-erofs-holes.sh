#!/usr/bin/env bash
# mkfs.erofs 1.5: an uncompressed image stores the holes of a sparse file as blocks of zeros, unless the file is
# written in chunks.
. "$(dirname "$0")/install.bash"
debs erofs-utils=1.5-1 liblz4-1 liblzma5 libuuid1 libselinux1 libpcre2-8-0 zlib1g
mkdir in
truncate -s 64M in/sparse
[ "$(stat -c %b in/sparse)" -eq 0 ] || gone "a file system that keeps holes"

mebibytes() { # ARGUMENTS: what the image occupies, in whole MiB
  rm -f image
  mkfs.erofs "$@" image in >log 2>&1 || changed "mkfs.erofs $* failed: $(tail -n 1 log)"
  echo "$(($(stat -c %b image) * 512 / 1048576)) MiB"
}
expect() { # WHAT WANT ARGUMENTS
  local what=$1 want=$2 got
  shift 2
  got=$(mebibytes "$@")
  echo "a file of 64 MiB that is one hole, $what: $got on disk"
  [ "$got" = "$want" ] || changed "$what was $want"
}

expect "uncompressed" "64 MiB"
sed -n 1p log
expect "-zlz4" "0 MiB" -zlz4
expect "--chunksize=1048576" "1 MiB" --chunksize=1048576

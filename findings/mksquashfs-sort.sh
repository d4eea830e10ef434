#!/usr/bin/env bash
# mksquashfs 4.5.1: -sort reverses the order of all files that its list does not name.
# Files are written uncompressed, so that the place of each in the image can be seen.
. "$(dirname "$0")/install.bash"
debs squashfs-tools=1:4.5.1-1 liblzo2-2 liblz4-1 libzstd1 liblzma5 zlib1g
mksquashfs -version | sed -n 1p

mkdir in
for f in a b c d e; do { echo "MARK-$f"; head -c 5000 /dev/zero; } >in/$f; done

order() { # ARGUMENTS: the order of the files in the image, and the exit status
  mksquashfs in image -noappend -no-progress -all-root -noI -noD -noF -no-fragments -processors 1 "$@" >log 2>&1
  local status=$?
  echo "$(grep -abo 'MARK-.' image | sort -n | sed 's/.*-//' | tr -d '\n') exit $status"
}
expect() { # WHAT WANT ARGUMENTS
  local what=$1 want=$2 got
  shift 2
  got=$(order "$@")
  echo "$what: $got"
  [ "$got" = "$want" ] || changed "$what was $want"
}

expect "without -sort" "abcde exit 0"
echo "c 10" >list
expect "a list with c alone" "cedba exit 0" -sort list
echo "./c 10" >list
expect "a list that matches nothing, for its ./" "edcba exit 0" -sort list
printf 'a 5\nb 4\nc 3\nd 2\ne 1\n' >list
expect "a list with all files" "abcde exit 0" -sort list

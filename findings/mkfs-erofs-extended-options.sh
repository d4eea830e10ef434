#!/usr/bin/env bash
# mkfs.erofs 1.5: any word is taken after -E, with exit status 0 and the image that is made without it.
. "$(dirname "$0")/install.bash"
debs erofs-utils=1.5-1 liblz4-1 libuuid1 libselinux1 libpcre2-8-0 zlib1g liblzma5
mkdir in
echo text >in/file

sum() { # ARGUMENTS: the digest of the image, and the exit status
  mkfs.erofs -T0 -U 00000000-0000-0000-0000-000000000000 "$@" image in >log 2>&1
  status=$?
  sed -n 1p log >&2
  echo "$(sha256sum <image | cut -c1-16) exit $status"
}
plain=$(sum)
word=$(sum -Enosuchoption)
echo "without -E: $plain"
echo "-Enosuchoption: $word"
[ "${plain#* }" = "exit 0" ] || gone "a mkfs.erofs that runs: $(cat log)"
[ "$plain" = "$word" ] || changed "the word is refused, or makes another image"

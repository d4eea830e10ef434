#!/usr/bin/env bash
# skopeo 1.9.3: a copy from one OCI image layout to another keeps every byte of the manifest, and drops artifactType and
# all annotations but the name from the entry in index.json.
. "$(dirname "$0")/install.bash"
debs skopeo=1.9.3+ds1-1+b10 libgpgme11 libassuan0 libgpg-error0 libdevmapper1.02.1
skopeo --version || gone "a skopeo that runs"

mkdir -p in/blobs/sha256
put() { # FILE: makes a blob of it and prints its digest
  local sum
  sum=$(sha256sum <"$1" | cut -d' ' -f1)
  cp "$1" "in/blobs/sha256/$sum"
  echo "$sum"
}
printf '{}' >empty
empty='{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:'$(put empty)'","size":2}'
type='"mediaType":"application/vnd.oci.image.manifest.v1+json"'
artifact='"artifactType":"application/vnd.example.boot"'
printf '{"schemaVersion":2,%s,%s,"config":%s,"layers":[%s],"annotations":{"org.example.note":"of the manifest"}}' \
  "$type" "$artifact" "$empty" "$empty" >manifest
sum=$(put manifest)
echo '{"imageLayoutVersion":"1.0.0"}' >in/oci-layout
printf '{"schemaVersion":2,"manifests":[{%s,"digest":"sha256:%s","size":%s,%s,"annotations":{"org.opencontainers.image.ref.name":"a","org.example.note":"of the entry"}}]}' \
  "$type" "$sum" "$(stat -c %s manifest)" "$artifact" >in/index.json

skopeo --insecure-policy copy -q oci:in:a oci:out:a || changed "the copy failed"
cat out/index.json
echo
cmp manifest "out/blobs/sha256/$sum" || changed "the manifest is another one"
grep -q '"org.opencontainers.image.ref.name":"a"' out/index.json || changed "the name is gone"
! grep -q 'of the entry' out/index.json || changed "the annotation of the entry is kept"
! grep -q artifactType out/index.json || changed "artifactType is kept"

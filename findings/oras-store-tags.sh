#!/usr/bin/env bash
# oras-go v2.7.0: its store of an OCI image layout reads index.json when it is opened, and writes what it then knows at
# each tag. Tags that another program set since then are lost.
. "$(dirname "$0")/install.bash"
gomodules oras.land/oras-go/v2@v2.7.0
cat >main.go <<'GO'
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
)

func main() {
	ctx := context.Background()
	first := must(oci.New("layout"))
	d := must(oras.PackManifest(ctx, first, oras.PackManifestVersion1_1, "application/vnd.example.boot", oras.PackManifestOptions{}))
	tag := func(s *oci.Store, name string) {
		if err := s.Tag(ctx, d, name); err != nil {
			panic(err)
		}
		fmt.Println(name+":", names())
	}
	tag(first, "one")
	tag(must(oci.New("layout")), "two") // another writer, that has read the first tag
	tag(first, "three")
}

// names are those in the file, in its order.
func names() (all []string) {
	var index v1.Index
	if err := json.Unmarshal(must(os.ReadFile("layout/index.json")), &index); err != nil {
		panic(err)
	}
	for _, m := range index.Manifests {
		all = append(all, m.Annotations[v1.AnnotationRefName])
	}
	return all
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
GO
go build -o finding . 2>log || gone "a build of it: $(cat log)"
./finding | tee out
diff - out <<'OUT' || changed "tags are kept"
one: [one]
two: [one two]
three: [one three]
OUT

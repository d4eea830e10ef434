// Package store keeps images on disk as an OCI image layout, so that blobs are served as they lie
// and skopeo, oras or a registry can copy them.
//
//	oci-layout                  the version of the layout
//	index.json                  the images and their tags
//	blobs/sha256/<hex>          manifests, configurations and parts, by digest
//	netroot.journal/<tag>       one line for each move of a tag
//	netroot.use/<hex>           locked while a process uses the version; its time is the last use
//	netroot.lock                held for the moment in which the index changes
//	netroot.tmp/                parts that a commit is writing, and the change that is under way
//
// An image is one manifest with the artifact type [ArtifactType], a configuration ([Config]) and a
// layer for each part, its role in the annotation [AnnotationRole]. Names are not part of these
// bytes: index.json says which label a version belongs to. A version has an entry whose
// org.opencontainers.image.ref.name is "label@id", the id being the first 12 hexadecimal digits of
// the manifest's digest; its annotations are the summary that lists show. A tag has an entry whose
// name is the tag. The tag that has the name of the label is the label's newest version. So
// "skopeo copy oci:DIR:debian12 ..." takes the newest, "oci:DIR:debian12@0123456789ab" or
// "oras cp --from-oci-layout DIR@sha256:..." an older one. No version is ever overwritten.
//
// Other programs may write to the layout. Entries that are not ours are kept as they are. An entry
// of ours that lost its annotations on the way is completed from its manifest, in memory at once
// and in the file with the next change.
//
// It is not a cache and not a registry client: it fetches nothing, and it does not look into the
// parts. How files change, so that a kill does no harm, is in package layout.
package store

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
)

// ErrNotFound is matched by the errors of Resolve for a reference that names no image.
var ErrNotFound = errors.New("no such image")

// Store is the images in a directory. Its methods may be called by several goroutines and processes
// at once.
type Store struct {
	layout *layout.Layout

	current atomic.Pointer[snapshot] // index.json as it was read last
	quick   atomic.Bool              // one reference has been resolved without a snapshot
	reading sync.Mutex               // held while a snapshot is made
	touched sync.Map                 // digest.Digest -> *atomic.Int64, the time of the last Touch
}

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.layout.Dir }

// At returns the store in dir, which need not exist yet: until it does, no image is found. It is
// for a program that starts before the first build; Create makes a store.
func At(dir string) *Store { return &Store{layout: &layout.Layout{Dir: dir}} }

// Open opens the store in dir for reading or committing. It is an error that matches
// fs.ErrNotExist when there is none.
func Open(dir string) (*Store, error) {
	s := At(dir)
	if err := s.layout.Open(); err != nil {
		return nil, err
	}
	return s, nil
}

// Create opens the store in dir and makes it first where there is none. The directory must be new,
// empty or a store already. What a killed process left is removed.
func Create(dir string) (*Store, error) {
	s := At(dir)
	if err := s.layout.Create(); err != nil {
		return nil, err
	}
	return s, s.layout.Check()
}

// versionName is the name of one version of a label.
func versionName(label string, manifest digest.Digest) string {
	return label + "@" + shortID(manifest)
}

func shortID(d digest.Digest) string { return d.Encoded()[:12] }

// splitRef splits "label@id"; a full digest "sha256:..." may stand for the id.
func splitRef(ref string) (label, id string, versioned bool) {
	label, id, versioned = strings.Cut(ref, "@")
	return label, strings.TrimPrefix(id, string(digest.SHA256)+":"), versioned
}

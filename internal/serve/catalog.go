package serve

import (
	"errors"
	"sync"

	"netroot/internal/store"
)

// catalog remembers what the store said about images that can never change, so that a thousand machines that come back
// at once do not each read every manifest again. What a label's newest image is, it asks each time.
type catalog struct {
	store *store.Store

	mu     sync.Mutex
	images map[string]*store.Image // by "label@id"
	blobs  map[string]blobRef      // by "sha256:..."
	open   map[string]*sharedBlob  // packed roots in use, by image name
}

// blobRef is where a blob is found: a part of an image.
type blobRef struct {
	image *store.Image
	role  store.Role
}

// sharedBlob is one open file for all NBD clients of an image.
type sharedBlob struct {
	*store.Blob
	users int
}

func newCatalog(s *store.Store) catalog {
	return catalog{
		store: s, images: make(map[string]*store.Image),
		blobs: make(map[string]blobRef), open: make(map[string]*sharedBlob),
	}
}

// resolve finds the image that ref names, as store.Resolve does.
func (c *catalog) resolve(ref string) (*store.Image, error) {
	c.mu.Lock()
	im, ok := c.images[ref]
	c.mu.Unlock()
	if ok {
		return im, nil
	}
	im, err := c.store.Resolve(ref)
	if err != nil {
		return nil, err
	}
	c.remember(im)
	return im, nil
}

func (c *catalog) remember(images ...*store.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, im := range images {
		c.images[im.Name()] = im
		for _, l := range im.Manifest.Layers {
			c.blobs[l.Digest.String()] = blobRef{im, store.Role(l.Annotations[store.AnnotationRole])}
		}
	}
}

// blob opens the blob with that digest, if an image of the store refers to it. The caller closes it.
func (c *catalog) blob(digest string) (*store.Blob, error) {
	c.mu.Lock()
	ref, ok := c.blobs[digest]
	c.mu.Unlock()
	if !ok {
		images, err := c.store.List()
		c.remember(images...)
		c.mu.Lock()
		ref, ok = c.blobs[digest]
		c.mu.Unlock()
		if !ok && err != nil {
			return nil, err
		}
		if !ok {
			return nil, errNoBlob
		}
	}
	b, ok, err := ref.image.Blob(ref.role)
	if err == nil && !ok {
		err = errNoBlob
	}
	return b, err
}

var errNoBlob = errors.New("no image has this blob")

// acquire returns the packed root of an image, opened once for all who use it. The file is closed when the last of them
// has called release; false when the image has no root.
func (c *catalog) acquire(im *store.Image) (b *store.Blob, release func(), ok bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := im.Name()
	shared := c.open[name]
	if shared == nil {
		b, ok, err := im.Blob(store.RoleRoot)
		if err != nil || !ok {
			return nil, nil, ok, err
		}
		shared = &sharedBlob{Blob: b}
		c.open[name] = shared
	}
	shared.users++
	return shared.Blob, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if shared.users--; shared.users == 0 {
			delete(c.open, name)
			shared.Close()
		}
	}), true, nil
}

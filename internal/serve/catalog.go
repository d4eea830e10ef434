package serve

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"netroot/internal/serve/whole"
	"netroot/internal/store"
)

// catalog opens what the store has, packed roots once for all their clients, and tells the store
// which versions machines run from, so that its gc leaves them alone.
type catalog struct {
	store *store.Store
	log   *slog.Logger
	parts *whole.Parts

	mu       sync.Mutex
	open     map[string]*sharedBlob // packed roots in use, by image name
	readOnly sync.Once              // it was logged that uses cannot be noted
}

// sharedBlob is one open file for all clients of an image.
type sharedBlob struct {
	*store.Blob
	users  int
	unhold func()
}

func newCatalog(s *store.Store, log *slog.Logger) *catalog {
	return &catalog{store: s, log: log, parts: whole.New(s, log), open: make(map[string]*sharedBlob)}
}

// resolve finds the image that ref names, as store.Resolve does.
func (c *catalog) resolve(ref string) (*store.Image, error) { return c.store.Resolve(ref) }

// given notes that a machine is told to boot the image.
func (c *catalog) given(im *store.Image) {
	if err := c.store.Touch(im); err != nil {
		c.unnoted(err)
	}
}

// unnoted logs, once, that the store cannot be told of uses. It is served all the same.
func (c *catalog) unnoted(err error) {
	c.readOnly.Do(func() {
		c.log.Warn("store: the use of images cannot be noted: \"netroot image gc\" does not know what machines run from", "why", err)
	})
}

// blob opens the blob with that digest, if an image of the store refers to it. The caller closes
// it.
func (c *catalog) blob(digest string) (*store.Blob, error) {
	b, err := c.store.Blob(digest)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w: %w", errNoBlob, err)
	}
	if err != nil {
		return nil, err
	}
	if err := c.parts.Blob(b); err != nil {
		b.Close()
		return nil, fmt.Errorf("image %s: %w", b.Image, err)
	}
	return b, nil
}

var errNoBlob = errors.New("no image has this blob")

// acquire returns the packed root of an image, opened once for all who use it. The file is closed
// when the last of them has called release; until then the store does not remove the image. False
// when the image has no root. The error says when it is damaged.
func (c *catalog) acquire(im *store.Image) (b *store.Blob, release func(), ok bool, err error) {
	if err := c.whole(im, store.RoleRoot); err != nil {
		return nil, nil, false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name := im.Name()
	shared := c.open[name]
	if shared == nil {
		b, ok, err := im.Blob(store.RoleRoot)
		if err != nil || !ok {
			return nil, nil, ok, err
		}
		unhold, err := c.store.Use(im)
		switch {
		case errors.Is(err, store.ErrNotFound):
			b.Close()
			return nil, nil, false, err
		case err != nil:
			c.unnoted(err)
			unhold = func() {}
		}
		shared = &sharedBlob{Blob: b, unhold: unhold}
		c.open[name] = shared
	}
	shared.users++
	return shared.Blob, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if shared.users--; shared.users == 0 {
			delete(c.open, name)
			shared.Close()
			shared.unhold()
		}
	}), true, nil
}

// whole returns why an image is not given out, with what to boot instead.
func (c *catalog) whole(im *store.Image, roles ...store.Role) error {
	err := c.parts.Check(im, roles...)
	if err == nil {
		return nil
	}
	if others := c.store.Others(im, func(o *store.Image) bool { return c.parts.Check(o, whole.BootRoles()...) == nil }); len(others) > 0 {
		err = fmt.Errorf("%w; other versions can be booted: %s", err, strings.Join(others, ", "))
	}
	return err
}

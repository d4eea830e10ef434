package nfs3

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cacheShards = 16
	epochTime   = 5 * time.Second
	idleEpochs  = 2 // after which an unused file is closed
)

// fileKey names a file of a tree: by the type and bytes of the kernel's handle, that is a handle
// from handleType on.
type fileKey struct {
	tree *tree
	file string
}

// file is a file that a client has a handle of, open.
type file struct {
	key    fileKey
	handle string // sealed
	path   int    // O_PATH descriptor

	mu       sync.Mutex
	rd, rw   int        // descriptors for reading and for writing, or -1: see reader and writer
	verdicts [4]verdict // of access checks, see may
	next     int        // verdict to be replaced

	change sync.Mutex // held by what changes the file's attributes or entries, from before to after

	// Of the shard's lock.
	refs         int
	cached       bool
	epoch        uint32 // of its last use, see sweep
	newer, older *file  // neighbours in the order of use
}

func (f *file) close() {
	for _, fd := range []int{f.rd, f.rw, f.path} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// cache keeps files open, those used last. Each of its shards is a list in the order of use and an
// index of it.
//
// A file that is kept open cannot be freed: so REMOVE and RENAME forget what they deleted, and what
// was deleted by somebody on this host is noticed at its next use or closed when idle.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]shard
}

type shard struct {
	mu    sync.Mutex
	most  int
	index map[fileKey]*file
	epoch uint32
	ends  file // of a ring: older than it is the file used last, newer the one used first
}

// limit makes the cache ready for n files.
func (c *cache) limit(n int) {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) == nil {
		n = min(n, int(min(r.Cur, 1<<20))/4)
	}
	c.seed = maphash.MakeSeed()
	for i := range c.shards {
		s := &c.shards[i]
		s.most = max(n/cacheShards, 1)
		s.index = make(map[fileKey]*file)
		s.ends.newer, s.ends.older = &s.ends, &s.ends
	}
}

func (c *cache) shard(file []byte) *shard { return &c.shards[maphash.Bytes(c.seed, file)%cacheShards] }

func (c *cache) shardOf(f *file) *shard {
	return &c.shards[maphash.String(c.seed, f.key.file)%cacheShards]
}

func (s *shard) unlink(f *file) { f.older.newer, f.newer.older = f.newer, f.older }

// push puts f where the newest is.
func (s *shard) push(f *file) {
	f.newer, f.older = &s.ends, s.ends.older
	f.older.newer, s.ends.older = f, f
	f.epoch = s.epoch
}

// take returns the file that is there, with a reference.
func (s *shard) take(t *tree, file []byte) *file {
	f := s.index[fileKey{t, string(file)}]
	if f == nil {
		return nil
	}
	f.refs++
	s.unlink(f)
	s.push(f)
	return f
}

// get returns a file that is open, or nil.
func (c *cache) get(t *tree, file []byte) *file {
	s := c.shard(file)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(t, file)
}

// add keeps the file of that sealed handle, which is open as the descriptor path. When it is kept
// already, path is closed. The file comes with a reference.
func (c *cache) add(t *tree, handle []byte, path int) *file {
	s := c.shard(handle[handleType:])
	s.mu.Lock()
	if f := s.take(t, handle[handleType:]); f != nil {
		s.mu.Unlock()
		unix.Close(path)
		return f
	}
	h := string(handle)
	f := &file{key: fileKey{t, h[handleType:]}, handle: h, path: path, rd: -1, rw: -1, refs: 1, cached: true}
	s.index[f.key] = f
	s.push(f)
	var old *file
	if len(s.index) > s.most {
		old = s.evict(s.ends.newer)
	}
	s.mu.Unlock()
	if old != nil {
		old.close()
	}
	return f
}

// evict takes f from the index; it returns f when that is to be closed now, because it has no
// users.
func (s *shard) evict(f *file) *file {
	s.unlink(f)
	delete(s.index, f.key)
	f.cached = false
	if f.refs > 0 {
		return nil
	}
	return f
}

// put gives a reference back.
func (c *cache) put(f *file) {
	s := c.shardOf(f)
	s.mu.Lock()
	f.refs--
	over := f.refs == 0 && !f.cached
	s.mu.Unlock()
	if over {
		f.close()
	}
}

// forget closes f as soon as it has no users.
func (c *cache) forget(f *file) {
	s := c.shardOf(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.cached { // the caller's reference keeps it open
		s.evict(f)
	}
}

// purge closes the files of a tree.
func (c *cache) purge(t *tree) {
	for i := range c.shards {
		s := &c.shards[i]
		s.closeOld(func(f *file) (over, stop bool) { return f.key.tree == t, false })
	}
}

// closeOld closes the files that are over, those used first in front, until one says stop.
func (s *shard) closeOld(judge func(*file) (over, stop bool)) {
	var closing []*file
	s.mu.Lock()
	for f := s.ends.newer; f != &s.ends; {
		newer := f.newer
		over, stop := judge(f)
		if stop {
			break
		}
		if over && s.evict(f) != nil {
			closing = append(closing, f)
		}
		f = newer
	}
	s.mu.Unlock()
	for _, f := range closing {
		f.close()
	}
}

// sweep closes what was not used for some epochs, until ctx ends.
func (c *cache) sweep(ctx context.Context) {
	tick := time.NewTicker(epochTime)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.age()
		}
	}
}

// age begins an epoch.
func (c *cache) age() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.epoch++
		now := s.epoch
		s.mu.Unlock()
		s.closeOld(func(f *file) (over, stop bool) { return true, now-f.epoch <= idleEpochs })
	}
}

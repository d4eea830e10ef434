package folder

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/layer"
)

const (
	// keepRetired is how long an archive stays after a new one has replaced it, or after a machine
	// has last fetched it: a machine that boots while its layer is edited gets what it was
	// promised.
	keepRetired = time.Hour
	// maxRetired bounds the bytes of those together. Beyond it the one that was not fetched for the
	// longest time goes.
	maxRetired = 2 * layer.MaxArchive
	// maxRetiredFiles bounds their number: each is an open file.
	maxRetiredFiles = 512
)

// shelf keeps archives.
type shelf struct {
	scratch string // directory
	room    int64  // bytes of retired archives

	mu       sync.Mutex
	archives map[handoff.Digest]*archive // by digest
}

// archive is the archive of a layer.
type archive struct {
	file    *os.File // without a name; nil: it is in memory
	bytes   []byte
	size    int64
	retired bool
	used    time.Time // retired or fetched
}

// Content is an archive that is being read.
type Content interface {
	io.ReadSeeker
	io.Closer
}

type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// Add keeps an archive that was made elsewhere, for as long as the Folder is used, and returns its
// digest.
func (s *shelf) Add(b []byte) (digest handoff.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	digest = handoff.DigestOf(b)
	s.archives[digest] = &archive{bytes: b, size: int64(len(b))}
	return digest
}

// ErrUnknown is matched by the error of Open for a digest that no archive has.
var ErrUnknown = errors.New("no such layer")

// Open opens the archive of that digest for one reader.
func (s *shelf) Open(digest handoff.Digest) (Content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.archives[digest]
	if a == nil {
		return nil, ErrUnknown
	}
	a.used = time.Now()
	if a.file == nil {
		return inMemory{bytes.NewReader(a.bytes)}, nil
	}
	// A file of its own, with its own offset; only *os.File leaves by sendfile(2).
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", a.file.Fd()))
}

func (s *shelf) has(digest handoff.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.archives[digest] != nil
}

// keep takes an archive that counts from now on.
func (s *shelf) keep(digest handoff.Digest, a *archive) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.archives[digest]; known != nil { // made before, or of another layer that is the same
		known.retired = false
		a.Close()
	} else {
		s.archives[digest] = a
	}
	s.clear()
}

// retire has an archive go in time that does not count any more.
func (s *shelf) retire(digest handoff.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.archives[digest]; a != nil && a.file != nil {
		a.retired, a.used = true, time.Now()
	}
	s.clear()
}

// clear drops retired archives that are old or too many. The caller holds the mutex.
func (s *shelf) clear() {
	for {
		var total int64
		files := 0
		oldest := handoff.Digest("")
		for digest, a := range s.archives {
			if !a.retired {
				continue
			}
			total += a.size
			files++
			if oldest == "" || a.used.Before(s.archives[oldest].used) {
				oldest = digest
			}
		}
		if oldest == "" || total <= s.room && files <= maxRetiredFiles && time.Since(s.archives[oldest].used) <= keepRetired {
			return
		}
		s.archives[oldest].Close()
		delete(s.archives, oldest)
	}
}

// Close drops all archives. Those that are being read stay readable.
func (s *shelf) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []error
	for _, a := range s.archives {
		failed = append(failed, a.Close())
	}
	clear(s.archives)
	return errors.Join(failed...)
}

// create makes an empty archive in a file without a name.
func (s *shelf) create() (*archive, error) {
	var failed []error
	for _, dir := range []string{s.scratch, os.TempDir()} {
		if dir == "" {
			continue
		}
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err == nil {
			return &archive{file: os.NewFile(uintptr(fd), dir+" (layer archive)")}, nil
		}
		f, err := os.CreateTemp(dir, "netroot-layer-*") // not every file system has the former
		if err == nil {
			return &archive{file: f}, os.Remove(f.Name())
		}
		failed = append(failed, err)
	}
	return nil, fmt.Errorf("no place for its archive: %w", errors.Join(failed...))
}

// fill writes the archive of a directory.
func (a *archive) fill(d layer.Dir) (digest handoff.Digest, err error) {
	w := bufio.NewWriterSize(&capped{a}, 256<<10)
	digest, err = layer.FromDir(w, d.Path, d.Edit)
	if err == nil {
		err = w.Flush()
	}
	return digest, err
}

// Close ends the use of the archive.
func (a *archive) Close() error {
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// capped writes as much of an archive as a node takes.
type capped struct{ *archive }

func (c *capped) Write(p []byte) (int, error) {
	if c.size+int64(len(p)) > layer.MaxArchive {
		return 0, fmt.Errorf("it is larger than %d MiB, and a node holds it in memory: have the recipe bring large files", layer.MaxArchive>>20)
	}
	n, err := c.file.Write(p)
	c.size += int64(n)
	return n, err
}

package nvmetcp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrUnknown says that no subsystem has the name asked for. Lookup wraps it.
var ErrUnknown = errors.New("unknown subsystem")

// DiscoveryNQN is the name of the subsystem that lists the others, the same on every server.
const DiscoveryNQN = "nqn.2014-08.org.nvmexpress.discovery"

// Ports that IANA gave to the protocol: 4420 for disks, 8009 for discovery alone. A Server does
// both on any port.
const (
	Port          = 4420
	DiscoveryPort = 8009
)

// Backend is the bytes of a disk. ReadAt is called from several goroutines at once, as io.ReaderAt
// allows, and never past Size. Size is in bytes and is asked once, when a host connects.
type Backend interface {
	io.ReaderAt
	Size() int64
}

// Subsystem is a disk that hosts can connect to. Everything but Backend and Release must be the
// same on each server that serves the disk, and different for another disk: hosts tell two paths to
// one disk from two disks by these values.
type Subsystem struct {
	NQN     string   // its name, at most 223 bytes
	NGUID   [16]byte // of the namespace; zeroes are none
	UUID    [16]byte // of the namespace; zeroes are none
	Serial  string   // at most 20 ASCII characters
	Model   string   // for people; at most 40 ASCII characters
	Backend Backend
	// BlockSize is 512 or 4096 bytes; 0 means 512. A last block that the backend does not fill is
	// read as if zeroes followed.
	BlockSize int
	// Release, when set, is called once when the server does not use this Subsystem any more. Close
	// a file that Lookup opened here.
	Release func()
}

// NewSubsystem returns a Subsystem whose identity follows from the digest of the disk's content, so
// that every server of the same bytes gives it the same.
//
// Its NQN has the form for owners of no domain (Base, "NVMe Qualified Names"), its UUID of version
// 8 (RFC 9562 section 5.8), and its serial number 20 hexadecimal digits of the digest.
func NewSubsystem(digest [32]byte, model string, b Backend) *Subsystem {
	s := &Subsystem{Model: model, Serial: hex.EncodeToString(digest[:10]), Backend: b}
	copy(s.NGUID[:], digest[:])
	s.UUID = s.NGUID
	s.UUID[6] = s.UUID[6]&0x0f | 0x80
	s.UUID[8] = s.UUID[8]&0x3f | 0x80
	u := s.UUID
	s.NQN = fmt.Sprintf("nqn.2014-08.org.nvmexpress:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	return s
}

// check reports what a Subsystem from Lookup lacks.
func (s *Subsystem) check() error {
	switch {
	case s.Backend == nil:
		return fmt.Errorf("subsystem %s has no backend", s.NQN)
	case s.Backend.Size() <= 0:
		return fmt.Errorf("subsystem %s is empty: a disk must have at least one byte", s.NQN)
	case s.NQN == "" || len(s.NQN) > maxNQN:
		return fmt.Errorf("subsystem name of %d bytes: it can have 1 to %d", len(s.NQN), maxNQN)
	case s.BlockSize != 512 && s.BlockSize != 4096 && s.BlockSize != 0:
		return fmt.Errorf("subsystem %s: block size %d: choose 512 or 4096", s.NQN, s.BlockSize)
	case !fits(s.Serial, 20):
		return fmt.Errorf("subsystem %s: serial number %q must have at most 20 ASCII characters", s.NQN, s.Serial)
	case !fits(s.Model, 40):
		return fmt.Errorf("subsystem %s: model %q must have at most 40 ASCII characters", s.NQN, s.Model)
	}
	return nil
}

// fits reports whether text is of at most n characters as NVMe writes them: space to tilde.
func fits(text string, n int) bool {
	return len(text) <= n && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

func (s *Subsystem) release() {
	if s.Release != nil {
		s.Release()
	}
}

// padded is something of a size to read from, and zeroes behind it: a disk whose last block is not
// full, or a log page of which the host reads more than exists.
type padded struct {
	src  io.ReaderAt
	size int64
}

// ReadAt fills p or returns an error.
func (d padded) ReadAt(p []byte, off int64) (int, error) {
	have := p[:max(0, min(int64(len(p)), d.size-off))]
	clear(p[len(have):])
	if len(have) == 0 {
		return len(p), nil
	}
	n, err := d.src.ReadAt(have, off)
	switch {
	case n == len(have):
		return len(p), nil
	case err == nil || err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

package iscsi

import (
	"errors"
	"io"
)

// ErrUnknown says that there is no target of the name asked for. Lookup wraps it; Login wraps it
// when a target portal says so.
var ErrUnknown = errors.New("unknown target")

// ErrDenied says that a login was refused to this initiator, or that a peer failed to authenticate.
var ErrDenied = errors.New("authentication failed")

// Backend is the bytes of a disk. ReadAt is called from several goroutines at once, as io.ReaderAt
// allows, and never past Size. Size is in bytes and is asked once, when an initiator logs in; a
// last part of less than a block of 512 bytes is filled up with zeroes.
type Backend interface {
	io.ReaderAt
	Size() int64
}

// Target is something that an initiator can log in to: one disk.
type Target struct {
	Name        string // its iSCSI name: iqn., eui. or naa., at most 223 bytes
	Description string // for people; sent as TargetAlias; may be empty
	// ID names the bytes of the disk, and is the same on every server: initiators take disks of one
	// ID for one disk. Use the first bytes of the content's digest.
	ID      [16]byte
	Backend Backend
	// CHAP, when set, is what an initiator must prove; nil asks nothing.
	CHAP *CHAP
	// Release, when set, is called once when the server does not use this Target any more. Close a
	// file that Lookup opened here.
	Release func()
}

func (t *Target) release() {
	if t.Release != nil {
		t.Release()
	}
}

// CHAP is what the two ends of a login know of each other (RFC 7143 §12.1.3). Secrets should have
// 12 bytes or more; some initiators take no other.
type CHAP struct {
	Name, Secret string // proven by the initiator
	// Proven by the target when the initiator asks, which Login does when PeerSecret is set. Empty:
	// a target refuses to be asked.
	PeerName, PeerSecret string
}

// check refuses what would prove nothing.
func (c *CHAP) check() error {
	switch {
	case c == nil:
		return nil
	case c.Name == "" || c.Secret == "":
		return errors.New("CHAP without a name or secret is configured")
	case c.PeerSecret == c.Secret: // RFC 7143 §9.2.1
		return errors.New("CHAP has the same secret for both directions")
	}
	return nil
}

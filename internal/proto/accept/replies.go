package accept

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

const (
	heldReply = 16 << 10 // bytes of the largest reply that is held
	heldBytes = 32 << 10 // of those that are held together
)

// heldBuffers keeps buffers of heldBytes, so that a connection has none while it is idle.
var heldBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, heldBytes)
	return &b
}}

// Replies writes a server's replies on one connection. While the reader of requests sees that more of them are there
// already, small replies can be held, and leave in one write: that halves what a deep queue costs.
type Replies struct {
	nc   net.Conn
	peer string

	mu   sync.Mutex
	hold bool
	held *[]byte // nil when there are none
}

// NewReplies returns the replies on nc. peer is the protocol's word for who takes them, for errors.
func NewReplies(nc net.Conn, peer string) *Replies { return &Replies{nc: nc, peer: peer} }

// Send sends b, one reply or more and each whole, at once or with those of the same time: see Hold. It may be called by
// many goroutines. An error means that the connection is of no more use.
func (r *Replies) Send(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(b) > heldReply || !r.hold && r.held == nil {
		return errors.Join(r.flush(), r.write(b))
	}
	if r.held == nil {
		r.held = heldBuffers.Get().(*[]byte)
	}
	*r.held = append(*r.held, b...)
	if r.hold && len(*r.held) <= heldBytes-heldReply {
		return nil
	}
	return r.flush()
}

// Hold has small replies held from now on, or sends what is held and from now on everything at once. Who has them held
// must not wait for the peer, or for anything that takes long, before they are sent.
func (r *Replies) Hold(on bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = on
	if on {
		return nil
	}
	return r.flush()
}

func (r *Replies) flush() error {
	if r.held == nil {
		return nil
	}
	b := r.held
	r.held = nil
	err := r.write(*b)
	*b = (*b)[:0]
	heldBuffers.Put(b)
	return err
}

func (r *Replies) write(b []byte) error {
	r.nc.SetWriteDeadline(time.Now().Add(Stall))
	_, err := r.nc.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the %s took no data for %v", r.peer, Stall)
	}
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	return nil
}

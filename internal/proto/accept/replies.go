package accept

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	heldReply = 16 << 10 // bytes of the largest reply that is held
	heldBytes = 32 << 10 // of those that are held together
	heldTime  = time.Millisecond
)

// heldBuffers keeps buffers of heldBytes, so that a connection has none while it is idle.
var heldBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, heldBytes)
	return &b
}}

// Replies writes a server's replies on one connection. While the reader of requests sees that more
// of them are there already, small replies can be held, and leave in one write: that halves what a
// deep queue costs.
type Replies struct {
	nc   net.Conn
	peer string
	hold atomic.Bool

	mu    sync.Mutex
	held  *[]byte     // nil when there are none
	timer *time.Timer // runs while there are
	err   error       // the first: what follows half of a reply would be taken for its rest
}

// NewReplies returns the replies on nc. peer is the protocol's word for the receiver, for errors.
func NewReplies(nc net.Conn, peer string) *Replies { return &Replies{nc: nc, peer: peer} }

// Send sends b, one reply or more and each whole, at once or with those of the same time: see Hold.
// It may be called by many goroutines. An error means that the connection cannot be used any more.
func (r *Replies) Send(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(b) > heldReply || !r.hold.Load() && r.held == nil {
		r.flush()
		return r.write(b)
	}
	if r.held == nil {
		r.begin()
	}
	*r.held = append(*r.held, b...)
	if r.hold.Load() && len(*r.held) <= heldBytes-heldReply {
		return r.err
	}
	return r.flush()
}

// Stream sends a reply that is larger than its buffer: b, then what next returns until no byte is
// left of those that follow b. Nothing else is sent in between. After an error of next the reply
// cannot be completed, so that the connection cannot be used any more.
func (r *Replies) Stream(b []byte, left int, next func(left int) ([]byte, error)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush()
	for {
		if err := r.write(b); err != nil || left == 0 {
			return err
		}
		var err error
		if b, err = next(left); err != nil {
			r.err = fmt.Errorf("reply: %w", err)
			return r.err
		}
		left -= len(b)
	}
}

// Hold has small replies held from now on, or sends what is held and from now on everything at
// once. Whatever the caller waits for meanwhile, none is held for longer than a millisecond or so.
func (r *Replies) Hold(on bool) error {
	if on || !r.hold.Load() {
		r.hold.Store(on) // and nothing is held: no need to wait for a writer
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold.Store(false)
	return r.flush()
}

// begin begins to hold replies.
func (r *Replies) begin() {
	r.held = heldBuffers.Get().(*[]byte)
	if r.timer != nil {
		r.timer.Reset(heldTime)
		return
	}
	r.timer = time.AfterFunc(heldTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.flush()
	})
}

// flush sends what is held.
func (r *Replies) flush() error {
	if r.held == nil {
		return nil
	}
	b := r.held
	r.held = nil
	r.timer.Stop()
	err := r.write(*b)
	*b = (*b)[:0]
	heldBuffers.Put(b)
	return err
}

func (r *Replies) write(b []byte) error {
	if r.err != nil {
		return r.err
	}
	r.nc.SetWriteDeadline(time.Now().Add(Stall))
	_, err := r.nc.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		r.err = fmt.Errorf("the %s took no data for %v", r.peer, Stall)
	} else if err != nil {
		r.err = fmt.Errorf("reply: %w", err)
	}
	return r.err
}

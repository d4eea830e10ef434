package iscsi

import (
	"bufio"
	"errors"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"netroot/internal/proto/accept"
)

const readAhead = 2 << 10 // bytes of requests read at once: some forty

// conn is one initiator's connection, which is its session.
type conn struct {
	srv  *Server
	peer string
	nc   net.Conn
	r    *bufio.Reader

	replies *accept.Replies

	// What the login settles.
	initiator string
	isid      [6]byte
	cid       uint16
	tsih      uint16
	target    *Target // nil: a discovery session
	disk      *disk
	released  bool
	digests
	maxBurst uint32
	maxSend  atomic.Uint32 // bytes of data that the initiator takes in one PDU

	expCmdSN atomic.Uint32 // the next command's number
	maxCmdSN atomic.Uint32 // the last one's that the initiator may use

	write  sync.Mutex // held while a reply is sent, guards:
	statSN uint32

	tasks
	text exchange

	since    time.Time // it logged in
	reads    atomic.Uint64
	bytes    atomic.Uint64
	slow     atomic.Bool           // the last small read took long
	ioFailed atomic.Bool           // a backend error was logged
	wrong    bool                  // a command was refused, and that was logged
	cause    atomic.Pointer[error] // why this side closed the connection
}

func newConn(s *Server, nc net.Conn) *conn {
	return &conn{srv: s, peer: nc.RemoteAddr().String(), nc: nc, r: bufio.NewReaderSize(nc, readAhead),
		replies: accept.NewReplies(nc, "initiator")}
}

// agree ends the login: from here the connection goes by t.
func (c *conn) agree(t terms) {
	c.digests = t.digests
	c.maxBurst = t.maxBurst &^ 3
	c.maxSend.Store(t.maxSend &^ 3)
}

// sameSession reports whether c and o are one session to the protocol (RFC 7143 §4.4.3). Discovery sessions are
// none: machines that list at the same time under one name should not end each other.
func (c *conn) sameSession(o *conn) bool {
	return c.target != nil && c.initiator == o.initiator && c.isid == o.isid && c.targetName() == o.targetName()
}

func (c *conn) targetName() string {
	if c.target == nil {
		return ""
	}
	return c.target.Name
}

// close closes the connection and lets go of the target. Commands must be over. It may be called twice.
func (c *conn) close() {
	c.nc.Close()
	c.srv.leave(c)
	if c.target != nil && !c.released {
		c.released = true
		c.target.release()
	}
}

// fail ends the connection from any goroutine; the first cause is kept.
func (c *conn) fail(err error) {
	c.cause.CompareAndSwap(nil, &err)
	c.nc.Close()
}

// survive keeps a panic of this connection, or of its backend, from ending the server.
func (c *conn) survive(what string) {
	if p := recover(); p != nil {
		c.srv.Log.Error("iscsi: panic, connection closed", "in", what, "peer", c.peer, "target", c.targetName(),
			"panic", p, "stack", string(debug.Stack()))
		c.fail(errors.New("panic"))
	}
}

func (c *conn) stat() Stat {
	return Stat{Peer: c.peer, Initiator: c.initiator, Target: c.targetName(), Since: c.since,
		Reads: c.reads.Load(), Bytes: c.bytes.Load()}
}

// send numbers the PDUs in b and sends them: for a task unless that was aborted, and as its last word when it
// is. An error means that the connection is of no more use.
func (c *conn) send(b []byte, from *task, last bool) error {
	c.write.Lock()
	defer c.write.Unlock()
	if from != nil && !c.speaks(from, last) {
		return nil
	}
	c.stamp(b)
	return c.replies.Send(b)
}

// stamp writes the sequence numbers and header digests into the PDUs that b is made of (RFC 7143 §4.2.2).
func (c *conn) stamp(b []byte) {
	for len(b) > 0 {
		h := (*header)(b)
		if h.op() != opDataIn || h[1]&flagStatus != 0 {
			be.PutUint32(h[24:], c.statSN)
			c.statSN++
		}
		be.PutUint32(h[28:], c.expCmdSN.Load())
		be.PutUint32(h[32:], c.maxCmdSN.Load())
		c.seal(b)
		b = b[c.headSize()+c.dataSize(h.dataLen()):]
	}
}

// timedOut says it in words.
func timedOut(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("nothing came in time")
	}
	return err
}

package iscsi

import (
	"bufio"
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"netroot/internal/proto/accept"
)

const readAhead = 2 << 10 // bytes of requests read at once: some forty

// conn is one initiator's connection, which is its session.
type conn struct {
	*accept.Conn
	srv *Server
	r   *bufio.Reader

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

	session *accept.Attachment // nil in a discovery session
	slow    atomic.Bool        // the last small read took long
}

func newConn(s *Server, nc *accept.Conn) *conn {
	return &conn{Conn: nc, srv: s, r: bufio.NewReaderSize(nc, readAhead), replies: accept.NewReplies(nc, "initiator")}
}

// agree ends the login: from here the connection goes by t.
func (c *conn) agree(t terms) {
	c.digests = t.digests
	c.maxBurst = t.maxBurst &^ 3
	c.maxSend.Store(t.maxSend &^ 3)
}

// sameSession reports whether c and o are one session to the protocol (RFC 7143 §4.4.3). Discovery
// sessions are none: machines that list at the same time under one name should not end each other.
func (c *conn) sameSession(o *conn) bool {
	return c.target != nil && c.initiator == o.initiator && c.isid == o.isid && c.targetName() == o.targetName()
}

func (c *conn) targetName() string {
	if c.target == nil {
		return ""
	}
	return c.target.Name
}

// close closes the connection and lets go of the target. Commands must be over. It may be called
// twice.
func (c *conn) close() {
	c.Close()
	c.srv.leave(c)
	if c.target != nil && !c.released {
		c.released = true
		c.target.release()
	}
}

// send numbers the PDUs in b and sends them: for a task unless that was aborted, and as its last
// word when it is. An error means that the connection cannot be used any more.
func (c *conn) send(b []byte, from *task, last bool) error {
	c.write.Lock()
	defer c.write.Unlock()
	if from != nil && !c.speaks(from, last) {
		return nil
	}
	c.stamp(b)
	return c.replies.Send(b)
}

// stamp writes the sequence numbers and header digests into the PDUs that b is made of (RFC 7143
// §4.2.2).
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

package iscsi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"netroot/internal/proto/accept"
)

// requests serves the full feature phase until the initiator logs out (errLoggedOut), or leaves
// (io.EOF if it did not announce that), or an error ends it. When it returns no command runs.
func (c *conn) requests(ctx context.Context) error {
	err := c.loop(ctx)
	c.dropQueue()
	if !c.Stopping() { // replies under way cannot be used any more
		c.Close()
	}
	c.workers.Wait()
	return err
}

// errLoggedOut ends the requests of an initiator that sent a Logout.
const errLoggedOut = accept.Announced("logged out")

func (c *conn) loop(ctx context.Context) error {
	var h header
	for {
		if err := c.replies.Hold(c.r.Buffered() >= headerSize); err != nil {
			return err
		}
		if c.target == nil {
			c.SetReadDeadline(time.Now().Add(listTimeout))
		}
		data, err := c.read(c.r, &h, maxReceive)
		if errors.Is(err, errDataDigest) { // recovery level 0: the session ends (§7.8)
			return errors.Join(err, c.reject(&h, rejectDigest), c.replies.Hold(false))
		}
		if err != nil && c.Stopping() {
			return accept.ErrServerStops
		}
		if err != nil {
			return timedOut(err)
		}
		c.Requested()
		err = c.handle(ctx, &h, data)
		if err != nil {
			c.replies.Hold(false)
			return err
		}
	}
}

// handle answers one request.
func (c *conn) handle(ctx context.Context, h *header, data []byte) error {
	switch h.op() {
	case opNopOut, opCommand, opTaskRequest, opTextRequest, opLogout:
		if next, err := c.inOrder(h); !next {
			return err
		}
	case opDataOut: // of a write that was refused before its data came, or not asked for: either way done with
		return nil
	case opSNACK:
		return c.reject(h, rejectSNACK)
	case opLoginRequest:
		return c.reject(h, rejectProtocol)
	default:
		return c.reject(h, rejectUnsupported)
	}
	if h.op() == opCommand {
		return c.command(ctx, h)
	}
	if !h.immediate() {
		c.maxCmdSN.Add(1) // answered at once
	}
	switch h.op() {
	case opNopOut:
		return c.ping(h, data)
	case opTaskRequest:
		return c.manage(h)
	case opTextRequest:
		return c.negotiateText(ctx, h, data)
	}
	return c.logout(h)
}

// inOrder takes a request's number. On the one connection of a session numbers arrive in order (RFC
// 7143 §4.2.2.1); one outside the window is not answered, as the RFC has it, and a gap cannot be
// filled any more.
func (c *conn) inOrder(h *header) (next bool, err error) {
	if h.immediate() {
		return true, nil
	}
	n, want := h.cmdSN(), c.expCmdSN.Load()
	switch ahead := int32(n - want); {
	case ahead < 0 || int32(n-c.maxCmdSN.Load()) > 0:
		return false, nil
	case ahead > 0:
		return false, fmt.Errorf("command number %d where %d is expected", n, want)
	}
	c.expCmdSN.Store(want + 1)
	return true, nil
}

// answer begins the reply to h.
func answer(op byte, h *header) header {
	r := header{op, flagFinal}
	copy(r[16:20], h[16:20])
	return r
}

func (c *conn) reply(h *header, data []byte) error {
	return c.send(c.appendPDU(make([]byte, 0, headerSize+2*digestSize+c.dataSize(len(data))), h, data), nil, false)
}

// reject sends a Reject with the header that it is about.
func (c *conn) reject(h *header, reason byte) error {
	r := header{opReject, flagFinal, reason}
	be.PutUint32(r[16:], noTag)
	return c.reply(&r, h[:])
}

// ping answers a NOP-Out. Without a tag it only acknowledges.
func (c *conn) ping(h *header, data []byte) error {
	if h.tag() == noTag {
		return nil
	}
	r := answer(opNopIn, h)
	copy(r[8:16], h[8:16])
	be.PutUint32(r[20:], noTag)
	return c.reply(&r, data[:min(len(data), int(c.maxSend.Load()))])
}

// command starts a SCSI command (§11.3). What is quick is run at once: a small read from the page
// cache takes less time than handing it to a goroutine; one that must wait for a disk should not
// keep the next from waiting beside it.
func (c *conn) command(ctx context.Context, h *header) error {
	t := &task{tag: h.tag(), expect: be.Uint32(h[20:]), reads: h[1]&flagRead != 0, immediate: h.immediate()}
	reason := rejectProtocol // to a discovery session
	switch {
	case t.tag == noTag:
		reason = rejectField
	case c.target != nil:
		reason = c.admit(t)
	}
	if reason != 0 {
		if !t.immediate {
			c.maxCmdSN.Add(1)
		}
		return c.reject(h, reason)
	}
	b := (*cdb)(h[32:])
	t.outcome = c.disk.execute(be.Uint64(h[8:]), b)
	if t.sense == senseProtected || t.sense == senseRange {
		c.misused(b, t.sense)
	}
	if t.n <= quickRead && !c.slow.Load() && c.idle() {
		return c.run(ctx, t)
	}
	c.start(ctx, t)
	return nil
}

// misused logs the first command of a connection that writes or reads past the end. Others that are
// refused are how initiators find out what a disk can.
func (c *conn) misused(b *cdb, s sense) {
	why := "past the end of the disk"
	if s == senseProtected {
		why = "the disk is read-only"
	}
	lba, blocks := b.extent()
	c.Misused("command", why, "client", clip(c.initiator), "export", c.targetName(), "opcode", b[0],
		"lba", lba, "blocks", blocks)
}

// Functions and answers of task management (§11.5.1, §11.6.1).
const (
	taskAbort      = 1
	taskAbortSet   = 2
	taskClearSet   = 4
	taskResetLUN   = 5
	taskResetWarm  = 6
	taskReassign   = 8
	taskDone       = 0
	taskUnknown    = 1
	taskNoLUN      = 2
	taskNoReassign = 4
	taskNoFunction = 5
)

// manage answers a task management request. Nothing of it reaches beyond its session.
func (c *conn) manage(h *header) error {
	r := answer(opTaskResponse, h)
	lun := be.Uint64(h[8:])
	switch function := h[1] &^ flagFinal; {
	case c.target == nil:
		return c.reject(h, rejectProtocol)
	case function == taskReassign:
		r[2] = taskNoReassign
	case function == taskResetWarm:
		c.abortAll()
	case function != taskAbort && function != taskAbortSet && function != taskClearSet && function != taskResetLUN:
		r[2] = taskNoFunction
	case !theLUN(lun):
		r[2] = taskNoLUN
	case function != taskAbort:
		c.abortAll()
	case !c.abort(h.transferTag()): // the tag of the task that is meant
		r[2] = taskUnknown
	}
	return c.reply(&r, nil)
}

// Reasons and answers of a logout (§11.14.1, §11.15.1).
const (
	logoutSession  = 0
	logoutConn     = 1
	logoutNoConn   = 1
	logoutNoRescue = 2
)

func (c *conn) logout(h *header) error {
	r := answer(opLogoutReply, h)
	switch reason := h[1] &^ flagFinal; {
	case reason == logoutConn && be.Uint16(h[20:]) != c.cid:
		r[2] = logoutNoConn
	case reason != logoutConn && reason != logoutSession:
		r[2] = logoutNoRescue
	}
	if r[2] != 0 {
		return c.reply(&r, nil)
	}
	c.abortAll()
	if err := c.reply(&r, nil); err != nil {
		return err
	}
	return errLoggedOut
}

package nvmetcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// handle answers a command, or starts what takes time.
func (c *conn) handle(ctx context.Context, cmd *command) error {
	if c.ctrl != nil && !c.ctrl.alive.Load() {
		c.ctrl.alive.Store(true) // any command is a sign of life: CTRATT says TBKAS
	}
	st := statusSequence
	switch {
	case cmd.damaged:
		st = statusTransient
	case cmd.flags() != psdtSGL:
		st = statusField
	case cmd.opcode() == opFabrics:
		return c.fabrics(ctx, cmd)
	case c.ctrl == nil || !c.ctrl.ready.Load():
	case c.qid == 0:
		return c.admin(ctx, cmd)
	default:
		return c.io(ctx, cmd)
	}
	return c.complete(cmd.id(), 0, st)
}

func (c *conn) fabrics(ctx context.Context, cmd *command) error {
	kind := cmd.fabricsType()
	switch {
	case kind == fabricsConnect:
		return c.connect(ctx, cmd)
	case c.ctrl == nil:
		return c.complete(cmd.id(), 0, statusSequence)
	case c.qid == 0 && kind == fabricsPropertyGet:
		v, st := c.ctrl.property(cmd)
		return c.complete(cmd.id(), v, st)
	case c.qid == 0 && kind == fabricsPropertySet:
		return c.complete(cmd.id(), 0, c.ctrl.setProperty(cmd))
	}
	return c.complete(cmd.id(), 0, statusOpcode)
}

// connection is what a Connect command asks for.
type connection struct {
	qid    uint16
	size   uint32 // of the submission queue, in entries
	noFlow bool
	kato   time.Duration
	hostID [16]byte
	cntlid uint16
	nqn    string
	host   string
}

const anyController = 0xffff // the CNTLID by which a host asks for a new one

// Where the parameters of Connect are, in the command and in its data (Base, "Connect").
const (
	connectFormatAt = 40
	connectQueueAt  = 42
	connectSizeAt   = 44

	connectCntlidAt = 16
	connectNQNAt    = 256
	connectHostAt   = 512
)

// refusal is why a Connect fails.
type refusal struct {
	status status
	result uint32
	why    error
}

// badCommand and badData refuse a parameter of the command itself, and of its data.
func badCommand(at uint32, why error) *refusal { return &refusal{statusConnectParam, at, why} }
func badData(at uint32, why error) *refusal    { return &refusal{statusConnectParam, 1<<16 | at, why} }

func parseConnect(cmd *command) (connection, *refusal) {
	data, st := cmd.sent(connectSize)
	if st != statusSuccess {
		return connection{}, &refusal{st, 0, errors.New("Connect without its data")}
	}
	q := connection{
		qid: uint16(cmd.dword(10) >> 16), size: cmd.dword(11)&0xffff + 1, noFlow: cmd.dword(11)>>16&4 != 0,
		kato:   time.Duration(cmd.dword(12)) * time.Millisecond,
		hostID: [16]byte(data), cntlid: le.Uint16(data[connectCntlidAt:]),
	}
	var ok1, ok2 bool
	q.nqn, ok1 = name(data[connectNQNAt:])
	q.host, ok2 = name(data[connectHostAt:])
	switch format := uint16(cmd.dword(10)); {
	case format != 0:
		return q, &refusal{statusConnectFormat, 0, fmt.Errorf("Connect of format %d", format)}
	case q.size < 2 || q.size > maxQueue:
		return q, badCommand(connectSizeAt, fmt.Errorf("queue of %d entries: it can have 2 to %d", q.size, maxQueue))
	case !ok1:
		return q, badData(connectNQNAt, errors.New("no proper name of a subsystem"))
	case !ok2:
		return q, badData(connectHostAt, errors.New("no proper name of a host"))
	}
	return q, nil
}

// name reads an NQN behind which its field is zeroes.
func name(field []byte) (nqn string, ok bool) {
	b, _, ok := bytes.Cut(field[:nqnSize], []byte{0})
	return string(b), ok && len(b) > 0 && len(b) <= maxNQN
}

// connect makes this connection a queue.
func (c *conn) connect(ctx context.Context, cmd *command) error {
	if c.ctrl != nil {
		return c.complete(cmd.id(), 0, statusSequence)
	}
	q, no := parseConnect(cmd)
	switch {
	case no != nil:
	case q.qid == 0:
		no = c.srv.makeController(ctx, c, q)
	default:
		no = c.srv.addQueue(c, q)
	}
	if no != nil {
		c.Refused(no.why, "client", q.host, "export", q.nqn, "queue", q.qid)
		return c.complete(cmd.id(), uint64(no.result), no.status)
	}
	c.SetReadDeadline(time.Time{})
	return c.complete(cmd.id(), uint64(c.ctrl.id), statusSuccess)
}

// use makes c a queue of k.
func (c *conn) use(k *controller, q connection) {
	c.ctrl, c.qid, c.size, c.noFlow = k, q.qid, q.size, q.noFlow
	c.fetched.Store(1) // Connect was the first entry of the queue
}

// Properties (Base, "Controller Properties").
const (
	propCAP  = 0x00
	propVS   = 0x08
	propCC   = 0x14
	propCSTS = 0x1c
	propCRTO = 0x68
)

const (
	version  = 2 << 16 // of the Base specification: 2.0
	maxQueue = 1024    // entries

	// Entries of a queue, queues in contiguous memory (as fabrics must say), time to be ready, NVM
	// command set, pages of 4 KiB, ready with media.
	capabilities = maxQueue - 1 | 1<<16 | readyTime<<24 | 1<<37 | 1<<59
	readyTime    = 15 // in 500 ms; in CRTO too, where Linux requires at least as much
)

// property answers Property Get.
func (k *controller) property(cmd *command) (uint64, status) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var v uint64
	size := uint32(4)
	switch cmd.dword(11) {
	case propCAP:
		v, size = capabilities, 8
	case propVS:
		v = version
	case propCC:
		v = uint64(k.cc)
	case propCSTS:
		v = uint64(k.csts)
	case propCRTO:
		v = readyTime
	default:
		return 0, statusField
	}
	if uint32(4)<<(cmd.dword(10)&7) != size {
		return 0, statusField
	}
	return v, statusSuccess
}

// Bits of CC and CSTS.
const (
	ccEnable   = 1 << 0
	ccShutdown = 3 << 14
	ccShape    = 0x7<<4 | 0xf<<7 | 0x7<<11 | 0xf<<16 | 0xf<<20 // command set, page size, arbitration, entry sizes
	ccOurShape = 6<<16 | 4<<20                                 // NVM, 4 KiB, round robin, 64 and 16 bytes

	cstsReady    = 1 << 0
	cstsFatal    = 1 << 1
	cstsShutdown = 2 << 2 // complete
)

// setProperty answers Property Set, of which only CC is for hosts to set.
func (k *controller) setProperty(cmd *command) status {
	if cmd.dword(10)&7 != 0 || cmd.dword(11) != propCC {
		return statusField
	}
	cc := cmd.dword(12)
	k.mu.Lock()
	was := k.cc
	k.cc = cc
	switch {
	case cc&ccEnable == 0:
		k.csts = 0
	case was&ccEnable != 0:
	case cc&ccShape == ccOurShape || k.discovery(): // which has no I/O queues to shape
		k.csts = cstsReady
	default:
		k.csts = cstsFatal
	}
	if k.csts &^= cstsShutdown; cc&ccShutdown != 0 {
		k.csts |= cstsShutdown
	}
	k.ready.Store(k.csts&cstsReady != 0)
	reset := was&ccEnable != 0 && cc&ccEnable == 0
	if reset {
		k.events = nil
	}
	k.mu.Unlock()
	if reset {
		k.failQueues(errors.New("the host has reset the controller"))
	}
	return statusSuccess
}

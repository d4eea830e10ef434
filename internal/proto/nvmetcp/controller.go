package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"netroot/internal/proto/accept"
)

const (
	namespaceID     = 1
	maxControllerID = 0xffef // those above are reserved
	maxEvents       = 4      // Asynchronous Event Requests that one controller holds
)

// controller is what one host has of one subsystem: an admin connection, which it ends with, and
// I/O connections.
type controller struct {
	srv    *Server
	id     uint16
	nqn    string
	sub    *Subsystem // nil for discovery
	disk   disk
	host   string
	hostID [16]byte
	admin  *conn

	session *accept.Attachment // nil for discovery
	ready   atomic.Bool        // as CSTS says
	alive   atomic.Bool        // a command came since the timer was set
	users   sync.WaitGroup     // I/O connections

	mu       sync.Mutex
	closed   bool
	cc, csts uint32
	kato     time.Duration // 0: none
	timer    *time.Timer
	queues   map[uint16]*conn
	events   []uint16           // commands that wait for an event
	features map[uint8]uint32   // that were set
	behavior [behaviorSize]byte // Host Behavior Support
}

// disk is the namespace of a controller.
type disk struct {
	data   padded
	shift  uint  // of the block size
	blocks int64 // at least one
}

func newDisk(b Backend, blockSize int) disk {
	d := disk{data: padded{b, b.Size()}, shift: 9}
	if blockSize == 4096 {
		d.shift = 12
	}
	d.blocks = (d.data.size + 1<<d.shift - 1) >> d.shift
	return d
}

func (k *controller) discovery() bool { return k.sub == nil }

func randomID() uint16 { return uint16(1 + rand.N(maxControllerID)) }

// makeController answers the Connect of an admin connection.
func (s *Server) makeController(ctx context.Context, c *conn, q connection) *refusal {
	if q.cntlid != anyController {
		return badData(connectCntlidAt, fmt.Errorf("controller %#x: controllers are made when a host connects", q.cntlid))
	}
	k := &controller{
		srv: s, nqn: q.nqn, host: q.host, hostID: q.hostID, admin: c, kato: q.kato,
		queues: make(map[uint16]*conn), features: make(map[uint8]uint32),
	}
	if q.nqn != DiscoveryNQN {
		sub, err := s.Lookup(ctx, q.nqn)
		if err == nil && sub == nil {
			err = ErrUnknown
		}
		if err != nil {
			return badData(connectNQNAt, err)
		}
		if err := sub.check(); err != nil {
			sub.release()
			return badData(connectNQNAt, err)
		}
		k.sub, k.disk = sub, newDisk(sub.Backend, sub.BlockSize)
	}
	if !s.register(k) {
		k.release()
		return &refusal{statusBusy, 0, errors.New("all controller numbers are taken")}
	}
	if !k.discovery() {
		k.session = c.Attach(accept.Session{Client: k.host, Export: k.nqn, Number: int(k.id)}, "controller", k.id)
		k.session.Connections(-1) // I/O connections are to come
	}
	c.use(k, q)
	k.watch()
	return nil
}

// register gives a controller its number. Numbers are random so that two servers of one subsystem,
// which do not know each other, rarely give one host the same number; Linux then refuses the second
// (nvme_validate_cntlid), and gets another when it tries again.
func (s *Server) register(k *controller) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.controllers) >= maxControllerID {
		return false
	}
	k.id = s.newID()
	for s.controllers[k.id] != nil {
		k.id = k.id%maxControllerID + 1
	}
	s.controllers[k.id] = k
	return true
}

// addQueue answers the Connect of an I/O connection.
func (s *Server) addQueue(c *conn, q connection) *refusal {
	s.mu.Lock()
	k := s.controllers[q.cntlid]
	s.mu.Unlock()
	switch {
	case k == nil:
		return badData(connectCntlidAt, fmt.Errorf("no controller %#x here", q.cntlid))
	case k.nqn != q.nqn:
		return badData(connectNQNAt, fmt.Errorf("controller %#x is not of this subsystem", q.cntlid))
	case k.host != q.host || k.hostID != q.hostID:
		return badData(connectHostAt, fmt.Errorf("controller %#x is another host's", q.cntlid))
	case k.discovery() || int(q.qid) > s.MaxQueues:
		return badCommand(connectQueueAt, fmt.Errorf("queue %d of at most %d", q.qid, s.MaxQueues))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.closed:
		return badData(connectCntlidAt, fmt.Errorf("controller %#x has ended", q.cntlid))
	case k.csts&cstsReady == 0:
		return &refusal{statusSequence, 0, errors.New("the controller is not enabled")}
	case k.queues[q.qid] != nil:
		return &refusal{statusSequence, 0, errors.New("the queue is connected already")}
	}
	k.queues[q.qid] = c
	k.session.Connections(1)
	k.users.Add(1)
	c.use(k, q)
	return nil
}

// remove forgets an I/O connection.
func (k *controller) remove(c *conn, why error) {
	k.mu.Lock()
	delete(k.queues, c.qid)
	k.session.Connections(-1)
	closed := k.closed
	k.mu.Unlock()
	if why != nil && why != io.EOF && !closed {
		k.srv.loop.Log.Info("nvmetcp: queue ended", "peer", c.PeerName(), "nqn", k.nqn, "controller", k.id, "queue", c.qid, "why", why)
	}
	k.users.Done()
}

// failQueues ends the I/O connections.
func (k *controller) failQueues(why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.queues {
		c.Fail(why)
	}
}

// close ends the controller when its admin connection has ended, and returns when nothing of it is
// left.
func (k *controller) close(why string) {
	k.mu.Lock()
	k.closed = true
	if k.timer != nil {
		k.timer.Stop()
	}
	k.mu.Unlock()
	k.srv.mu.Lock()
	delete(k.srv.controllers, k.id)
	k.srv.mu.Unlock()
	k.failQueues(errors.New("the controller has ended"))
	k.users.Wait()
	k.release()
	if !k.discovery() {
		k.session.Detach(why)
	}
}

func (k *controller) release() {
	if k.sub != nil {
		k.sub.release()
	}
}

// watch ends the controller when nothing came from its host for the keep-alive timeout. The host is
// noticed between one and two times that after its last command.
func (k *controller) watch() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer != nil {
		k.timer.Stop()
	}
	if k.kato == 0 || k.closed {
		return
	}
	kato := k.kato
	k.timer = time.AfterFunc(kato, func() {
		if k.alive.Swap(false) {
			k.watch()
			return
		}
		k.admin.Fail(fmt.Errorf("no sign of life for %v", kato))
	})
}

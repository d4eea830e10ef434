package accept

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Session is the use of one export by one client. The counts are those of the moment when it was
// returned.
type Session struct {
	Protocol    string         // "nbd", "nvmetcp", "iscsi" or "nfs3"
	Peer        netip.AddrPort // of the connection that attached the export
	Client      string         // the client's own name, where the protocol has one: an NVMe host's NQN, an initiator
	Export      string         // name of the export, subsystem or target
	Number      int            // that the protocol gives to the session: NVMe's controller, iSCSI's TSIH; or 0
	Connections int            // over which its data goes
	Since       time.Time
	Heard       time.Time // when its last request came, where the protocol says so (NFS)

	Reads, Writes           uint64 // requests that moved data
	ReadBytes, WrittenBytes uint64 // of that data
	Errors                  uint64 // requests that the export failed
}

// Kind says what an Event tells.
type Kind uint8

// Kinds of events.
const (
	Attached Kind = iota // a client has attached an export
	Detached             // it has left; the session's counts are final
	Failed               // a request failed in the export; only the first of a session is told
)

func (k Kind) String() string { return [...]string{"attached", "detached", "failed"}[k] }

// Event is what happened to a session.
type Event struct {
	Kind    Kind
	Session Session
	Why     string // it was detached or failed
}

// Observer is told of events, from many goroutines and while a client waits: it should return soon.
// It is not called for requests that succeed; Loop.Active has their counts.
type Observer func(Event)

// Attachment is a session that goes on.
type Attachment struct {
	loop  *Loop
	what  Session // but for the counts
	attrs []any   // that log lines have besides

	connections                                atomic.Int64
	heard                                      atomic.Int64 // Unix time in ns
	reads, writes, readBytes, written, errored atomic.Uint64
}

// Attach begins a session of the connection's peer, of which what says Client, Export and Number.
// It is logged, with attrs besides, and told to the Observer. A warning says when another address
// has a session of the same Client.
func (c *Conn) Attach(what Session, attrs ...any) *Attachment {
	l := c.loop
	what.Protocol, what.Peer, what.Since = l.Protocol, c.Peer, time.Now()
	head := []any{"peer", c.PeerName()}
	if what.Client != "" {
		head = append(head, "client", what.Client)
	}
	a := &Attachment{loop: l, what: what, attrs: slices.Concat(head, []any{"export", what.Export}, attrs)}
	a.connections.Store(1)
	l.mu.Lock()
	l.active[a] = struct{}{}
	var other netip.Addr
	if what.Client != "" {
		other = l.names.add(what.Client, address(what.Peer))
	}
	l.mu.Unlock()
	l.Log.Info(l.Protocol+": attached", a.attrs...)
	if other.IsValid() {
		l.SharedName(what.Client, address(what.Peer), other)
	}
	a.tell(Attached, "")
	return a
}

// Detach ends the session: it is logged and told with the reason.
func (a *Attachment) Detach(why string) {
	l := a.loop
	l.mu.Lock()
	delete(l.active, a)
	if a.what.Client != "" {
		l.names.remove(a.what.Client, address(a.what.Peer))
	}
	l.past.Errors += a.errored.Load()
	l.mu.Unlock()
	s := a.Session()
	counts := []any{"reads", s.Reads, "bytes", s.ReadBytes}
	if s.Writes > 0 {
		counts = append(counts, "writes", s.Writes, "written", s.WrittenBytes)
	}
	counts = append(counts, "after", time.Since(s.Since).Round(time.Millisecond), "why", why)
	l.Log.Info(l.Protocol+": left", slices.Concat(a.attrs, counts)...)
	a.tell(Detached, why)
}

func (a *Attachment) tell(kind Kind, why string) {
	if a.loop.Observer != nil {
		a.loop.Observer(Event{kind, a.Session(), why})
	}
}

// Read counts a request that returned n bytes, and Wrote one that stored them.
func (a *Attachment) Read(n int) {
	a.reads.Add(1)
	a.readBytes.Add(uint64(n))
}

// Wrote is described at Read.
func (a *Attachment) Wrote(n int) {
	a.writes.Add(1)
	a.written.Add(uint64(n))
}

// Heard notes that a request came, for Session.Heard.
func (a *Attachment) Heard() { a.heard.Store(time.Now().UnixNano()) }

// Connections changes the number of connections of the session, which begins as 1.
func (a *Attachment) Connections(by int) { a.connections.Add(int64(by)) }

// Failed counts a request that the export failed. The first one is logged as what, with attrs
// besides, and told to the Observer: a lost disk would fill the log otherwise.
func (a *Attachment) Failed(what string, err error, attrs ...any) {
	if a.errored.Add(1) > 1 {
		return
	}
	a.loop.Log.Error(a.loop.Protocol+": "+what+"; further failures of this client are not logged",
		slices.Concat(a.attrs, attrs, []any{"why", err})...)
	a.tell(Failed, err.Error())
}

// Session returns the session as it is now.
func (a *Attachment) Session() Session {
	s := a.what
	s.Connections = int(a.connections.Load())
	if heard := a.heard.Load(); heard != 0 {
		s.Heard = time.Unix(0, heard)
	}
	s.Reads, s.ReadBytes = a.reads.Load(), a.readBytes.Load()
	s.Writes, s.WrittenBytes = a.writes.Load(), a.written.Load()
	s.Errors = a.errored.Load()
	return s
}

// Active returns the sessions that go on, in no order.
func (l *Loop) Active() []Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Session, 0, len(l.active))
	for a := range l.active {
		all = append(all, a.Session())
	}
	return all
}

// Counters are what a server has done since its start, and what it does now.
type Counters struct {
	Accepted uint64 // connections, with those that were refused
	Refused  uint64 // connections, and requests for an export
	Requests uint64
	Errors   uint64 // requests that an export failed
	In, Out  uint64 // bytes on all connections

	Open     int   // connections now
	Attached int   // sessions now
	Memory   int64 // bytes of Options.MaxBuffer that are in use now
}

func (n *Counters) add(c *Conn) {
	n.Requests += c.requests.Load()
	n.In += c.in.Load()
	n.Out += c.out.Load()
}

// Counters returns the counters as they are now.
func (l *Loop) Counters() Counters {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.past
	for c := range l.conns {
		n.add(c)
	}
	for a := range l.active {
		n.Errors += a.errored.Load()
	}
	n.Refused = l.log.total.Load()
	n.Open, n.Attached, n.Memory = len(l.conns), len(l.active), l.memory.held.Load()
	return n
}

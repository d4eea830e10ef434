package nfs3

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"netroot/internal/proto/accept"
)

// Limits of Server when its options are zero.
const (
	DefaultMaxConns  = 4096
	DefaultMaxBuffer = 256 << 20 // bytes
	DefaultMaxFiles  = 16384
)

const maxBusy = 256 // requests that wait for a file system at once, each on a thread of its own

// Server serves exports. Its fields are set before Serve and not changed after it; a Server may
// serve several listeners at once.
type Server struct {
	accept.Options
	// Lookup opens the export in which path lies, for a MOUNT by peer; rest is what of path lies
	// below the export's directory ("" is the directory itself). path begins with a slash and is
	// clean (path.Clean). It is called from many goroutines. An error that wraps ErrUnknown or
	// ErrDenied is told to the client as such; its text goes to Log. Whether the export admits the
	// peer is asked after it; a Lookup by which a peer comes to have something asks first.
	Lookup func(ctx context.Context, path string, peer netip.AddrPort) (e *Export, rest string, err error)
	// Find opens the export that a client's handle names, when a connection uses it for the first
	// time: clients keep their handles across restarts of the server and do not mount again. The
	// handle's seal was verified; what is said of Lookup about errors and admission applies to
	// Find.
	Find func(ctx context.Context, id ID, peer netip.AddrPort) (*Export, error)
	// List names what MOUNT's EXPORT tells (showmount -e). Nil tells of nothing.
	List func(ctx context.Context) ([]Listed, error)
	// Unmounted, when set, is told that a client said that it has unmounted path ("" for all it
	// had). Most do not. It may have connections that use the export for all that. An error says
	// that it was not believed, and goes to Log.
	Unmounted func(path string, peer netip.AddrPort) error
	// Key seals handles: with another key, all that clients hold are stale. The caller keeps it; it
	// is secret.
	Key [32]byte
	// MaxFiles bounds the files that are kept open; each may take three descriptors, and no more
	// than a quarter of the process's are used. 0 means DefaultMaxFiles.
	MaxFiles int

	once     sync.Once
	loop     *accept.Loop
	bufs     *accept.Buffers
	programs []program
	busy     chan struct{} // of maxBusy requests
	verifier atomic.Uint64 // of unstable writes: another one says that some may be lost
	seals    sealer
	files    cache
	creds    credTable
	mounts   mountTable
	replays  replays

	disconnects atomic.Uint64 // calls of Disconnect

	mu     sync.Mutex
	trees  map[treeKey]*tree
	active map[*attachment]struct{}
}

// Active returns the exports that connections use now, in no order. A machine has one connection or
// a few at a time, and none for minutes when it has nothing to ask.
func (s *Server) Active() []accept.Session { s.once.Do(s.setup); return s.loop.Active() }

// Counters returns what the server has done since its start.
func (s *Server) Counters() accept.Counters { s.once.Do(s.setup); return s.loop.Counters() }

var errDisconnected = errors.New("disconnected by the server")

// Disconnect ends the connections for which match is true of an export that they use. Clients
// connect again at once, and Find is asked anew: so an export that was withdrawn, or given to
// another, is really gone. It returns their number.
func (s *Server) Disconnect(match func(accept.Session) bool) int {
	s.disconnects.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for a := range s.active {
		if match(a.session.Session()) {
			a.conn.Fail(errDisconnected)
			n++
		}
	}
	return n
}

// Serve accepts clients until ctx ends, then closes l and every connection, waits for them, and
// returns nil. Replies under way get a second to leave. It returns an error when the Server lacks
// something or the listener fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.Lookup == nil || s.Find == nil {
		l.Close()
		return errors.New("nfs3: no Lookup or no Find function is set")
	}
	s.once.Do(s.setup)
	ctx, cancel := context.WithCancel(ctx)
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		s.files.sweep(ctx)
	}()
	err := s.loop.Run(ctx, l)
	cancel()
	<-swept
	return err
}

func (s *Server) setup() {
	if s.MaxFiles <= 0 {
		s.MaxFiles = DefaultMaxFiles
	}
	s.programs = []program{
		{programNFS, nfsVersion, nfsProcedures},
		{programMount, mountVersion, mountProcedures},
		{programACL, nfsVersion, aclProcedures},
	}
	s.bufs = accept.NewBuffers(maxData, slack)
	s.loop = accept.NewLoop("nfs3", s.Options, accept.Limits{
		MaxConns: DefaultMaxConns, MaxBuffer: DefaultMaxBuffer, LeastBuffer: 4 * maxRecord,
		ConnBuffer: connMemory, ConnRequests: connInFlight,
	})
	s.loop.Serve = s.serve
	s.busy = make(chan struct{}, maxBusy)
	s.seals.key = s.Key
	s.files.limit(s.MaxFiles)
	s.replays.seed = maphash.MakeSeed()
	s.trees = make(map[treeKey]*tree)
	s.active = make(map[*attachment]struct{})
	s.newVerifier()
}

// newVerifier makes clients send again what they have written and not committed.
func (s *Server) newVerifier() {
	var b [8]byte
	rand.Read(b[:]) // never fails
	s.verifier.Store(binary.NativeEndian.Uint64(b[:]))
}

package iscsi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"netroot/internal/prototest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Backend whose every 16 bytes hold their number.
type memory struct {
	size int64
	read func(p []byte, off int64) (int, error) // instead, when set
}

func (d *memory) Size() int64 { return d.size }

func (d *memory) ReadAt(p []byte, off int64) (int, error) {
	if d.read != nil {
		return d.read(p, off)
	}
	for i := range p {
		p[i] = byte((off + int64(i)) / 16)
	}
	return len(p), nil
}

const (
	smallDisk = 8<<10 - 12 // its last block is not whole
	prefix    = "iqn.2026-01.test:"
)

var diskID = [16]byte{0x5e, 0xa1, 0xed, 0xc0, 0xff, 0xee, 0x0b, 0xad, 0xf0, 0x0d, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc}

// targets is what test servers offer.
func targets(_ context.Context, name string) (*Target, error) {
	t := &Target{Name: name, ID: diskID}
	bad := func(p []byte, off int64) (int, error) {
		if off+int64(len(p)) > 4096 {
			return 0, errors.New("bad sector")
		}
		return (&memory{size: smallDisk}).ReadAt(p, off)
	}
	switch strings.TrimPrefix(name, prefix) {
	case "root":
		t.Description = "small disk"
		t.Backend = &memory{size: smallDisk}
	case "big":
		t.Backend = &memory{size: 128 << 20}
	case "broken":
		t.Backend = &memory{size: smallDisk, read: bad}
	case "panic":
		t.Backend = &memory{size: 1 << 20, read: func([]byte, int64) (int, error) { panic("backend") }}
	case "secret":
		t.Backend = &memory{size: smallDisk}
		t.CHAP = &CHAP{Name: "node", Secret: "node-secret-12", PeerName: "server", PeerSecret: "server-secret-12"}
	case "one-way":
		t.Backend = &memory{size: smallDisk}
		t.CHAP = &CHAP{Name: "node", Secret: "node-secret-12"}
	case "no-secret":
		t.Backend = &memory{size: smallDisk}
		t.CHAP = &CHAP{Name: "node"}
	case "empty":
		t.Backend = &memory{}
	case "failing":
		return nil, errors.New("disk on fire")
	case "nil":
		return nil, nil
	default:
		return nil, fmt.Errorf("%w: no label %q", ErrUnknown, name)
	}
	return t, nil
}

func list(context.Context) ([]Target, error) {
	return []Target{{Name: prefix + "root"}, {Name: prefix + "big"}}, nil
}

// start runs s on a port of 127.0.0.1. stop ends it, fails the test when that is not clean, and may
// be called twice.
func start(t testing.TB, s *Server) (addr string, log *prototest.Log, stop func()) {
	return startOn(t, s, func(l net.Listener) net.Listener { return l })
}

func startOn(t testing.TB, s *Server, wrap func(net.Listener) net.Listener) (addr string, log *prototest.Log, stop func()) {
	t.Helper()
	log = new(prototest.Log)
	if s.Lookup == nil {
		s.Lookup = targets
	}
	s.Log = slog.New(slog.NewTextHandler(log, nil))
	addr, stop = prototest.Serve(t, func(ctx context.Context, l net.Listener) error { return s.Serve(ctx, wrap(l)) })
	return addr, log, stop
}

// fixedAddr gives connections a local address that scripts can name.
type fixedAddr struct{ net.Listener }

type fixedConn struct{ *net.TCPConn }

func (fixedConn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv6loopback, Port: 3260} }

func (l fixedAddr) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return fixedConn{c.(*net.TCPConn)}, nil
}

// TestServerScripts holds the server to conversations written byte for byte. "L:" lines are parts
// of its log; with "-" in front, what must not be there. "NoList:" takes discovery away.
func TestServerScripts(t *testing.T) {
	for _, s := range scripts(t, "testdata/server/*.txt") {
		t.Run(filepath.Base(s.file), func(t *testing.T) {
			srv := &Server{List: list}
			for _, l := range s.lines {
				if l.who == "NoList:" {
					srv.List = nil
				}
			}
			addr, log, stop := startOn(t, srv, func(l net.Listener) net.Listener { return fixedAddr{l} })
			s.play(t, prototest.Dial(t, addr), "C:")
			stop()
			for _, l := range s.lines {
				if l.who != "L:" {
					continue
				}
				part, absent := strings.CutPrefix(l.text, "-")
				if strings.Contains(log.String(), part) == absent {
					t.Errorf("%s: log: want %q in\n%s", s.file, l.text, log)
				}
			}
		})
	}
}

func TestServeRefusesToStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := new(Server).Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "no Lookup function") {
		t.Errorf("Serve: %v", err)
	}
	if err := (&Server{Lookup: targets}).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve on a closed listener: %v", err)
	}
}

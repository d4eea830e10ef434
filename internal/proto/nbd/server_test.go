package nbd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"netroot/internal/prototest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a Backend whose every 16 bytes hold their number, but for zeroes in its second half.
type disk struct {
	size int64
	read func(p []byte, off int64) (int, error) // instead, when set
}

func (d *disk) Size() int64 { return d.size }

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	if d.read != nil {
		return d.read(p, off)
	}
	for i := range p {
		p[i] = 0
		if at := off + int64(i); at < d.size/2 {
			p[i] = byte(at / 16)
		}
	}
	return len(p), nil
}

// holey is a disk that knows where its zeroes are.
type holey struct{ disk }

func (h *holey) Extent(off, limit int64) (int64, bool, error) {
	if off < h.size/2 {
		return min(limit, h.size/2-off), false, nil
	}
	return limit, true, nil
}

const smallDisk = 8 << 10

// exports is what test servers offer.
func exports(_ context.Context, name string) (*Export, error) {
	bad := func(p []byte, off int64) (int, error) {
		if off+int64(len(p)) > 4096 {
			return 0, errors.New("bad sector")
		}
		return (&disk{size: smallDisk}).ReadAt(p, off)
	}
	switch name {
	case "root":
		return &Export{Name: name, Description: "small disk", Backend: &holey{disk{size: smallDisk}}}, nil
	case "big":
		return &Export{Name: name, Backend: &disk{size: 128 << 20}}, nil
	case "broken":
		return &Export{Name: name, Backend: &disk{size: smallDisk, read: bad}}, nil
	case "shrunk":
		return &Export{Name: name, Backend: &disk{size: smallDisk, read: func([]byte, int64) (int, error) { return 100, io.EOF }}}, nil
	case "panic":
		return &Export{Name: name, Backend: &disk{size: 1 << 20, read: func([]byte, int64) (int, error) { panic("backend") }}}, nil
	case "failing":
		return nil, errors.New("disk on fire")
	}
	return nil, fmt.Errorf("%w: no label %q", ErrUnknown, name)
}

// start runs s on a port of 127.0.0.1. stop ends it, fails the test when that is not clean, and may
// be called twice.
func start(t testing.TB, s *Server) (addr string, log *prototest.Log, stop func()) {
	t.Helper()
	log = new(prototest.Log)
	if s.Lookup == nil {
		s.Lookup = exports
	}
	s.Log = slog.New(slog.NewTextHandler(log, nil))
	addr, stop = prototest.Serve(t, s.Serve)
	return addr, log, stop
}

// TestServerScripts holds the server to conversations written byte for byte. "L:" lines are parts
// of its log; with "-" in front, what must not be there.
func TestServerScripts(t *testing.T) {
	for _, s := range scripts(t, "testdata/server/*.txt") {
		t.Run(filepath.Base(s.file), func(t *testing.T) {
			addr, log, stop := start(t, &Server{List: func(context.Context) ([]Export, error) {
				return []Export{{Name: "root", Description: "small disk"}, {Name: "big"}}, nil
			}})
			conn := prototest.Dial(t, addr)
			s.play(t, conn, "C:")
			conn.Close()
			stop()
			for _, l := range s.lines {
				if l.who != "L:" {
					continue
				}
				text, not := strings.CutPrefix(l.text, "-")
				if strings.Contains(log.String(), text) == not {
					t.Errorf("log (wanted %q: %v):\n%s", text, !not, log)
				}
			}
		})
	}
}

// TestCapturedClients replays what real clients once sent, in one piece, and reads what the server
// answers to the end.
func TestCapturedClients(t *testing.T) {
	for _, f := range glob(t, "testdata/captured/client-*.hex") {
		t.Run(filepath.Base(f), func(t *testing.T) {
			asTheirs := &holey{disk{size: 2 * smallDisk}}
			addr, log, stop := start(t, &Server{Lookup: serving(asTheirs), List: func(context.Context) ([]Export, error) {
				return []Export{{Name: "root"}}, nil
			}})
			conn := prototest.Dial(t, addr)
			if _, err := conn.Write(captured(t, f)); err != nil {
				t.Fatal(err)
			}
			conn.CloseWrite()
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Fatal(err)
			}
			stop()
			if out := log.String(); strings.Contains(out, "WARN") || strings.Contains(out, "ERROR") {
				t.Error(out)
			}
		})
	}
}

// TestRefusedOnce: clients ask for INFO, a context and GO of one name in a row; that is one line.
func TestRefusedOnce(t *testing.T) {
	addr, log, stop := start(t, &Server{})
	const no = `S: 0003e889045565a9 %s 80000006 u32"unknown export: no label \"%s\""`
	say(t, prototest.Dial(t, addr), hello, flags,
		`C: "IHAVEOPT" 00000006 0000000c u32"absent" 0000`, fmt.Sprintf(no, "00000006", "absent"),
		`C: "IHAVEOPT" 00000007 0000000c u32"absent" 0000`, fmt.Sprintf(no, "00000007", "absent"),
		`C: "IHAVEOPT" 00000007 0000000a u32"away" 0000`, fmt.Sprintf(no, "00000007", "away"),
		`C: EOF`, `S: EOF`)
	stop()
	for _, name := range []string{"absent", "away"} {
		want := `level=WARN msg="nbd: refused" peer=127.0.0.1 why="export \"` + name + `\": unknown export: no label`
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("not one %s in\n%s", want, log)
		}
	}
}

func TestListRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		list func(context.Context) ([]Export, error)
		want string
	}{
		"no list": {nil, "this server does not list its exports"},
		"failing": {func(context.Context) ([]Export, error) { return nil, errors.New("store unreadable") },
			"the exports cannot be listed, the server's log says why"},
	} {
		t.Run(name, func(t *testing.T) {
			addr, _, _ := start(t, &Server{List: tt.list})
			say(t, prototest.Dial(t, addr), hello, flags, `C: "IHAVEOPT" 00000003 00000000`,
				`S: 0003e889045565a9 00000003 80000002 u32"`+tt.want+`"`)
		})
	}
}

func TestTooManyOptions(t *testing.T) {
	addr, log, stop := start(t, &Server{})
	conn := prototest.Dial(t, addr)
	b := be.AppendUint32(nil, 3)
	for range maxOptions + 1 {
		b = be.AppendUint64(b, magicOption)
		b = be.AppendUint64(b, 99<<32) // option 99 without data
	}
	conn.Write(b)
	io.Copy(io.Discard, conn)
	stop()
	if !strings.Contains(log.String(), `why="more than 128 options"`) {
		t.Error(log)
	}
}

func TestServeRefusesToStart(t *testing.T) {
	for want, s := range map[string]*Server{
		"no Lookup function":                 {},
		"TLS is required and no certificate": {Lookup: exports, RequireTLS: true},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Serve(context.Background(), l); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Serve: %v, want %q", err, want)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := (&Server{Lookup: exports}).Serve(context.Background(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve on a closed listener: %v", err)
	}
}

func TestFileExtents(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const mib = 1 << 20
	f.WriteAt(bytes.Repeat([]byte{1}, mib), mib)
	if err := f.Truncate(4 * mib); err != nil {
		t.Fatal(err)
	}
	b, err := NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	if b.Size() != 4*mib {
		t.Errorf("size %d", b.Size())
	}
	const hole = stateHole | stateZero
	all := []extent{{mib, hole}, {mib, 0}, {2 * mib, hole}}
	if got := extents(b, 0, 4*mib, maxExtents); got[0].status == 0 {
		t.Skip("this file system does not know its holes")
	}
	for _, tt := range []struct {
		off, n int64
		count  int
		want   []extent
	}{
		{0, 4 * mib, maxExtents, all},
		{0, 4 * mib, 2, all[:2]},
		{0, 4 * mib, 1, all[:1]},
		{mib / 2, mib, 9, []extent{{mib / 2, hole}, {mib / 2, 0}}},
		{4*mib - 1, 1, 9, []extent{{1, hole}}},
	} {
		got := extents(b, tt.off, tt.n, tt.count)
		if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(extent{})); d != "" {
			t.Errorf("extents(%d, %d, %d): %s", tt.off, tt.n, tt.count, d)
		}
	}
	f.Close()
	if got := extents(b, 0, 4*mib, 9); len(got) != 1 || got[0] != (extent{4 * mib, 0}) {
		t.Errorf("of a backend that cannot say: %v, want data", got)
	}
}

// TestSlowBackendGoesParallel: small reads are served one after the other while they are quick, and
// beside each other once one had to wait.
func TestSlowBackendGoesParallel(t *testing.T) {
	g := newGate(1 << 20)
	gated := g.read
	first := true // read by one goroutine, then written, before there are others
	g.read = func(p []byte, off int64) (int, error) {
		if first {
			first = false
			<-time.After(2 * slowBackend)
			return len(p), nil
		}
		return gated(p, off)
	}
	addr, _, _ := start(t, &Server{Lookup: serving(g)})
	conn := attach(t, addr, "")
	conn.SetDeadline(time.Now().Add(patience))
	for i := range connInFlight + 1 {
		ask(conn, cmdRead, uint64(i), 0, 512)
	}
	prototest.Until(t, "reads beside each other", func() bool { return g.waiting.Load() == connInFlight })
	close(g.open)
	for range connInFlight + 1 {
		if _, code, _, err := answer(conn, always(512)); code != 0 || err != nil {
			t.Fatal(code, err)
		}
	}
}

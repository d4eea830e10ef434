package gate

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen returns a guarded listener whose connections are answered with "x" and closed.
func listen(t *testing.T, g *Gate) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = g.Guard(l)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "x")
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l
}

func dial(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

func inodeOf(t *testing.T, conn net.Conn) (inode uint64) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		err = unix.Fstat(int(fd), &st)
		inode = st.Ino
	})
	if err != nil {
		t.Fatal(err)
	}
	return inode
}

func TestGate(t *testing.T) {
	var refused []error
	g := &Gate{Refused: func(err error) { refused = append(refused, err) }}
	l := listen(t, g)
	early := dial(t, l) // waits
	good := inodeOf(t, early)
	g.Open(func(inode uint64) bool { return inode == good && Has(os.Getpid(), inode) })
	g.Open(func(uint64) bool { return true })
	if b, err := io.ReadAll(early); string(b) != "x" || err != nil {
		t.Errorf("the owner got %q, %v", b, err)
	}
	for range 3 {
		conn := dial(t, l)
		io.WriteString(conn, "request")
		if b, err := io.ReadAll(conn); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a stranger got %q, %v", b, err)
		}
	}
	l.Close()
	wrong := (*Error)(nil)
	if len(refused) != 1 || !errors.As(refused[0], &wrong) || wrong.UID != uint32(os.Getuid()) || !strings.Contains(refused[0].Error(), "only the machine") {
		t.Errorf("told %v", refused)
	}
}

// A stranger that has closed its socket has left one without a file, which seems to be root's.
func TestGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial(t, l).Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.Copy(io.Discard, conn) // until the end of the other side is here
	if s, err := otherEnd(conn); err == nil {
		t.Errorf("found %+v", s)
	}
}

// A listener that is closed before the gate opens ends, with a connection that waits.
func TestCloseWhileWaiting(t *testing.T) {
	l := listen(t, new(Gate))
	conn := dial(t, l)
	l.Close()
	if b, err := io.ReadAll(conn); len(b) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v", b, err)
	}
}

// Both ways to find a socket find the same.
func TestBothWays(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn := dial(t, l)
	own, peer := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	want := socket{inodeOf(t, conn), uint32(os.Getuid())}
	if s, err := byTable("/proc/self/net/tcp", own, peer); s != want || err != nil {
		t.Errorf("table: %+v, %v; want %+v", s, err, want)
	}
	if s, err := byDiag(own, peer); s != want && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Errorf("sock_diag: %+v, %v; want %+v", s, err, want)
	}
	none := netip.AddrPortFrom(own.Addr(), 1)
	if s, err := byDiag(none, none); err == nil {
		t.Errorf("sock_diag finds %+v", s)
	}
	if s, err := byTable("/proc/self/net/tcp", none, none); !errors.Is(err, errNoSocket) {
		t.Errorf("table: %+v, %v", s, err)
	}
	if !Has(os.Getpid(), want.inode) || Has(os.Getpid(), 1) || Has(1<<30, want.inode) {
		t.Error("descriptors")
	}
}

func TestBadAnswers(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 19), make([]byte, 40), diagRequest(netip.AddrPort{}, netip.AddrPort{})[:30]} {
		if s, err := parseDiag(b); err == nil {
			t.Errorf("%v: %+v", b, s)
		}
	}
	table := filepath.Join(t.TempDir(), "tcp")
	a := netip.MustParseAddrPort("127.0.0.1:1")
	line := " 0: " + tableName(a) + " " + tableName(a) + " 01 0:0 0:0 0 x 0 y\n"
	if err := os.WriteFile(table, []byte("sl\n"+line), 0o644); err != nil {
		t.Fatal(err)
	}
	if s, err := byTable(table, a, a); err == nil || errors.Is(err, errNoSocket) {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := otherEnd(struct{ net.Conn }{pipe(t)}); !errors.Is(err, errNoSocket) {
		t.Error(err)
	}
}

func pipe(t *testing.T) net.Conn {
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a
}

package interop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/internal/proto/nfs3"
)

// nfsTree is a directory, served as /root.
type nfsTree struct {
	dir, port string
}

// url is what libnfs takes; its client has no portmapper to ask here.
func (n nfsTree) url(path, options string) string {
	return "nfs://127.0.0.1/root" + path + "?version=3&nfsport=" + n.port + "&mountport=" + n.port + options
}

func serveNFS(t *testing.T, e nfs3.Export) nfsTree {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveNFSOn(t, l, e)
}

func serveNFSOn(t *testing.T, l net.Listener, e nfs3.Export) nfsTree {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("an NFS server needs root")
	}
	n := nfsTree{dir: t.TempDir()}
	e.Name, e.ID, e.AnyPort = "root", nfs3.IDOf("root"), true
	e.Clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	open := func() (*nfs3.Export, error) {
		dir, err := os.Open(n.dir)
		if err != nil {
			return nil, err
		}
		o := e
		o.Dir, o.Release = dir, func() { dir.Close() }
		return &o, nil
	}
	s := &nfs3.Server{
		Lookup: func(_ context.Context, path string, _ netip.AddrPort) (*nfs3.Export, string, error) {
			rest, ok := strings.CutPrefix(path, "/root")
			if !ok {
				return nil, "", fmt.Errorf("%w: %s", nfs3.ErrUnknown, path)
			}
			o, err := open()
			return o, rest, err
		},
		Find: func(context.Context, nfs3.ID, netip.AddrPort) (*nfs3.Export, error) { return open() },
		List: func(context.Context) ([]nfs3.Listed, error) {
			return []nfs3.Listed{{Path: "/root", Clients: e.Clients}}, nil
		},
	}
	_, n.port, _ = net.SplitHostPort(l.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return n
}

// TestNFSLs has libnfs list a tree. It prints no bits above 0777; those are looked at in the
// package's own tests.
func TestNFSLs(t *testing.T) {
	need(t, "nfs-ls", "libnfs-utils")
	n := serveNFS(t, nfs3.Export{ReadOnly: true, TrustRoot: true})
	os.WriteFile(filepath.Join(n.dir, "su"), []byte("12345"), 0o755)
	os.Chmod(filepath.Join(n.dir, "su"), 0o755|os.ModeSetuid)
	os.Mkdir(filepath.Join(n.dir, "tmp"), 0o755)
	os.Chmod(filepath.Join(n.dir, "tmp"), 0o777|os.ModeSticky)
	os.WriteFile(filepath.Join(n.dir, "tmp", "Főtanúsítvány"), []byte("x"), 0o644)
	os.Symlink("su", filepath.Join(n.dir, "link"))
	out := mustRun(t, "nfs-ls", "-R", n.url("", ""))
	for _, want := range []string{"-rwxr-xr-x  1     0     0            5 su\n", "drwxrwxrwx  2     0     0", " tmp/Főtanúsítvány\n", "lrwxrwxrwx"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// noise writes a file of n bytes and returns them.
func noise(t *testing.T, file string, n int) []byte {
	t.Helper()
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestNFSCopy has libnfs copy a file from the server, and to it.
func TestNFSCopy(t *testing.T) {
	need(t, "nfs-cp", "libnfs-utils")
	n := serveNFS(t, nfs3.Export{TrustRoot: true})
	data := noise(t, filepath.Join(n.dir, "noise"), 16<<20+5)
	here := filepath.Join(t.TempDir(), "copy")
	mustRun(t, "nfs-cp", n.url("/noise", ""), here)
	equal(t, "from the server", here, data)
	if err := os.Mkdir(filepath.Join(n.dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "nfs-cp", here, n.url("/sub/Főnoise", "&wsize=100000"))
	equal(t, "to the server", filepath.Join(n.dir, "sub/Főnoise"), data)
	if out := mustRun(t, "nfs-cat", n.url("/sub/Főnoise", "&rsize=8192")); out != string(data) {
		t.Errorf("nfs-cat: %d bytes, and different", len(out))
	}
	if out, err := command(t, "nfs-cat", n.url("/none", "")); err == nil || !strings.Contains(out, "NFS3ERR_NOENT") {
		t.Errorf("a file that is not there: %v\n%s", err, out)
	}
}

// TestNFSRights: libnfs is told what its user may not do. It is run as root, so that is what an
// export that does not trust root refuses, and a read-only one.
func TestNFSRights(t *testing.T) {
	need(t, "nfs-cp", "libnfs-utils")
	for want, e := range map[string]nfs3.Export{"NFS3ERR_ACCES": {}, "NFS3ERR_ROFS": {ReadOnly: true, TrustRoot: true}} {
		n := serveNFS(t, e)
		if err := os.Chmod(n.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		local := filepath.Join(t.TempDir(), "file")
		noise(t, local, 10)
		if out, err := command(t, "nfs-cp", local, n.url("/new", "")); err == nil || !strings.Contains(out, want) {
			t.Errorf("%v, want %s\n%s", err, want, out)
		}
	}
}

// TestNFSPortmap: libnfs finds the server by the portmapper's ports, in a network of its own, where
// they are free.
func TestNFSPortmap(t *testing.T) {
	need(t, "nfs-ls", "libnfs-utils")
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	// The namespace is of this thread, which ends with this goroutine; sockets and programs that
	// are made here are in it.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Error(err)
			return
		}
		asked(t)
	}()
	<-done
}

func asked(t *testing.T) {
	nfs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:111")
	if err != nil {
		t.Error(err)
		return
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:111")
	if err != nil {
		t.Error(err)
		return
	}
	n := serveNFSOn(t, nfs, nfs3.Export{TrustRoot: true})
	noise(t, filepath.Join(n.dir, "noise"), 10)
	ctx, cancel := context.WithCancel(context.Background())
	p := nfs3.Portmap{Mappings: nfs3.Mappings(uint16(nfs.Addr().(*net.TCPAddr).Port))}
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, l, u) }()
	// "version=3" and no port: the portmapper is asked for both.
	if out, err := command(t, "nfs-ls", "nfs://127.0.0.1/root?version=3"); err != nil || !strings.Contains(out, " noise\n") {
		t.Errorf("%v\n%s", err, out)
	}
	// The exports are asked for, once the portmapper has told where.
	if out, err := command(t, "nfs-ls", "-D", "nfs://127.0.0.1"); err != nil || !strings.Contains(out, "nfs://127.0.0.1/root") {
		t.Errorf("%v\n%s", err, out)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

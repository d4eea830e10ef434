package interop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		Lookup: func(_ context.Context, path string, _ netip.Addr) (*nfs3.Export, string, error) {
			rest, ok := strings.CutPrefix(path, "/root")
			if !ok {
				return nil, "", fmt.Errorf("%w: %s", nfs3.ErrUnknown, path)
			}
			o, err := open()
			return o, rest, err
		},
		Find: func(context.Context, nfs3.ID, netip.Addr) (*nfs3.Export, error) { return open() },
		List: func(context.Context) ([]nfs3.Listed, error) {
			return []nfs3.Listed{{Path: "/root", Clients: e.Clients}}, nil
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
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

// TestNFSLs has libnfs list a tree. It prints no bits above 0777; those are looked at in the package's own tests.
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

// TestNFSCopy has libnfs copy a file from the server.
func TestNFSCopy(t *testing.T) {
	need(t, "nfs-cp", "libnfs-utils")
	n := serveNFS(t, nfs3.Export{ReadOnly: true, TrustRoot: true})
	data := make([]byte, 16<<20+5)
	rand.NewChaCha8([32]byte{1}).Read(data)
	if err := os.WriteFile(filepath.Join(n.dir, "noise"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "copy")
	mustRun(t, "nfs-cp", n.url("/noise", ""), out)
	equal(t, "nfs-cp", out, data)
}

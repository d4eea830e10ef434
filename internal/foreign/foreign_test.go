package foreign

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/proto/iscsi"
	"netroot/internal/proto/nbd"
	"netroot/internal/vm"
)

func TestMain(m *testing.M) {
	Main()
	if os.Getenv("FOREIGN_TEST_ORPHAN") != "" {
		orphan()
	}
	os.Exit(m.Run())
}

func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := find(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// disk is 4 MiB of noise.
func disk(t *testing.T) (export.Disk, []byte) {
	t.Helper()
	data := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{7}).Read(data)
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return export.Disk{Image: "debian12@0123456789ab", Path: path}, data
}

// listener returns a listener for a server.
func listener(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	if t != nil {
		t.Cleanup(func() { l.Close() })
	}
	return l
}

func dial(t *testing.T, s *Server) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// gone fails the test if the port or the directory of the server is left.
func gone(t *testing.T, s *Server) {
	t.Helper()
	if conn, err := net.Dial("tcp", s.Addr.String()); err == nil {
		conn.Close()
		t.Error("a server still listens")
	}
	if _, err := os.Stat(s.dir); err == nil {
		t.Errorf("%s is left", s.dir)
	}
}

func TestNBD(t *testing.T) {
	need(t, "nbd-server")
	d, data := disk(t)
	s, err := NBD(t.Context(), listener(t), d)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 { // one process for each client
		info, err := nbd.Handshake(t.Context(), dial(t, s), d.Image)
		if err != nil || info.Size != uint64(len(data)) || info.Flags&2 == 0 {
			t.Errorf("%+v, %v: want %d bytes, read-only", info, err, len(data))
		}
	}
	if _, err := nbd.Handshake(t.Context(), dial(t, s), "debian12"); err == nil {
		t.Error("it also serves the export under another name")
	}
	if copied, err := exec.LookPath("nbdcopy"); err == nil {
		out := filepath.Join(t.TempDir(), "copy")
		if text, err := exec.Command(copied, "nbd://"+s.Addr.String()+"/"+d.Image, out).CombinedOutput(); err != nil {
			t.Errorf("nbdcopy: %v\n%s", err, text)
		}
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, data) {
			t.Errorf("the copy differs: %v", err)
		}
	}
	s.Close()
	gone(t, s)
}

func TestISCSI(t *testing.T) {
	need(t, "tgtd", "tgt-admin")
	d, _ := disk(t)
	open, err := os.Open(d.Path) // another server may have the file open
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := ISCSI(ctx, listener(t), d)
	if err != nil {
		t.Fatal(err)
	}
	login := func(target string) error {
		_, err := iscsi.Login(ctx, dial(t, s), iscsi.LoginConfig{Initiator: "iqn.2026-01.org.example:node", Target: target, ISID: [6]byte{0x80, 1}})
		return err
	}
	if err := login(boot.IQN(d.Image)); err != nil {
		t.Error(err)
	}
	if err := login(boot.IQN("debian12@000000000000")); err == nil {
		t.Error("it also has the target under another name")
	}
	if list, err := exec.LookPath("iscsi-ls"); err == nil {
		out, err := exec.Command(list, "-s", "iscsi://"+s.Addr.String()).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Lun:1    Type:DIRECT_ACCESS (Size:3M)") {
			t.Errorf("%v\n%s", err, out)
		}
	}
	cancel()
	<-s.Done()
	gone(t, s)
}

// TestOrphan kills the process that has started servers, which then cannot clean up.
func TestOrphan(t *testing.T) {
	need(t, "nbd-server", "tgtd", "tgt-admin")
	d, _ := disk(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "FOREIGN_TEST_ORPHAN="+d.Path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	n, _ := out.Read(buf)
	words := strings.Fields(string(buf[:n]))
	if len(words) != 4 {
		t.Fatalf("it said %q", buf[:n])
	}
	cmd.Process.Kill()
	cmd.Wait()
	limit := time.After(20 * time.Second)
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		left := ""
		for _, word := range words {
			if _, err := os.Stat(word); err == nil {
				left = word
			}
			if conn, err := net.Dial("tcp", word); strings.Contains(word, ":") && err == nil {
				conn.Close()
				left = word
			}
		}
		if left == "" {
			return
		}
		select {
		case <-limit:
			t.Fatalf("%s is left", left)
		default:
		}
	}
}

// orphan starts servers, prints their addresses, and waits to be killed.
func orphan() {
	d := export.Disk{Image: "debian12@0123456789ab", Path: os.Getenv("FOREIGN_TEST_ORPHAN")}
	a, err := NBD(context.Background(), listener(nil), d)
	if err != nil {
		panic(err)
	}
	b, err := ISCSI(context.Background(), listener(nil), d)
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(strings.Join([]string{a.Addr.String(), a.dir, b.Addr.String(), b.dir}, " "))
	select {}
}

func TestErrors(t *testing.T) {
	need(t, "nbd-server", "tgtd", "tgt-admin")
	d := export.Disk{Image: "debian12@0123456789ab", Path: "/nonexistent/disk"}
	if s, err := ISCSI(t.Context(), listener(t), d); err == nil || !strings.Contains(err.Error(), "/nonexistent/disk") {
		t.Errorf("%v, %v", s, err)
	}
	d.Path = "/not%s"
	if s, err := NBD(t.Context(), listener(t), d); err == nil {
		t.Errorf("%v, %v", s, err)
	}
	for want, tree := range map[string]export.Tree{
		"no machine may mount": {Label: "x", Path: "/srv/x"},
		"the path":             {Label: "x", Path: "/srv/it's"},
	} {
		if _, err := NFS(t.Context(), listener(t), listener(t), Kernel{}, Packed{}, tree, vm.AccelTCG); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := find("no-such-program"); err == nil || !strings.Contains(err.Error(), "is not installed") {
		t.Error(err)
	}
}

package interop

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"netroot/internal/export"
	"netroot/internal/proto/nbd"
)

// writeSet writes the files of a set below dir, with dir before the paths by which servers read
// them.
func writeSet(t *testing.T, dir string, set export.Set) {
	t.Helper()
	for _, f := range set.Files {
		path := filepath.Join(dir, f.For)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(f.Text, "= /etc/", "= "+dir+"/etc/")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExportNBD: nbd-server takes sections from the directory that a site includes, more of them
// when it is told to look again, and lets in whom they name.
func TestExportNBD(t *testing.T) {
	need(t, "nbd-server", "nbd-server")
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	add := func(id string, size int, clients ...string) {
		t.Helper()
		prefixes, err := export.Clients(clients)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, id+".squashfs")
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		set, err := export.NBD(export.Disk{Image: "debian12@" + id, Path: path, Clients: prefixes})
		if err != nil {
			t.Fatal(err)
		}
		writeSet(t, dir, set)
	}
	add("000000000001", 1<<20)
	add("000000000002", 2<<20, "127.0.0.0/8", "10.0.0.7")
	add("000000000003", 3<<20, "10.0.0.0/24")
	config, pid := filepath.Join(dir, "config"), filepath.Join(dir, "pid")
	text := fmt.Sprintf("[generic]\n    listenaddr = 127.0.0.1\n    port = %d\n    includedir = %s/etc/nbd-server/conf.d\n", addr.Port, dir)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "nbd-server", "-C", config, "-p", pid)
	eventually(t, "nbd-server says which process it is", func() bool { return signalPID(pid, "0") == nil })
	t.Cleanup(func() { signalPID(pid, "TERM") })
	attach := func(id string) (uint64, error) {
		conn, err := net.Dial("tcp", addr.String())
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		info, err := nbd.Handshake(t.Context(), conn, "debian12@"+id)
		if err == nil && info.Flags&2 == 0 { // NBD_FLAG_READ_ONLY
			t.Errorf("%s can be written", id)
		}
		return info.Size, err
	}
	eventually(t, "nbd-server listens", func() bool { _, err := attach("000000000001"); return err == nil })
	if size, err := attach("000000000002"); err != nil || size != 2<<20 {
		t.Errorf("%d bytes, %v", size, err)
	}
	if _, err := attach("000000000003"); err == nil {
		t.Error("it let in who is not among the clients")
	}
	conn, err := net.Dial("tcp", addr.String()) // of a node that runs meanwhile
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := nbd.Handshake(t.Context(), conn, "debian12@000000000001"); err != nil {
		t.Fatal(err)
	}
	add("000000000004", 4<<20)
	if err := signalPID(pid, "HUP"); err != nil {
		t.Fatal(err)
	}
	// nbd-server 3.24 misses the signal one time in five. Started again, which ends its clients'
	// connections, it must take the same files.
	polls, missed := 0, false
	eventually(t, "nbd-server takes up the new export", func() bool {
		if polls++; polls == 100 {
			missed = true
			t.Log("nbd-server has missed SIGHUP")
			signalPID(pid, "TERM")
			eventually(t, "nbd-server starts again", func() bool {
				return exec.Command("nbd-server", "-C", config, "-p", pid).Run() == nil && signalPID(pid, "0") == nil
			})
		}
		size, err := attach("000000000004")
		return err == nil && size == 4<<20
	})
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !missed && (err == nil || !strings.Contains(err.Error(), "timeout")) {
		t.Errorf("the node's connection: %v", err)
	}
}

// signalPID sends a signal to the process whose number is in the file.
func signalPID(file, signal string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return exec.Command("kill", "-"+signal, strconv.Itoa(pid)).Run()
}

// eventually waits for what a program does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		if ok() {
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// TestExportNFS has exportfs read entries, in a mount namespace where /etc/exports and its own
// state are the test's. No kernel of an NFS server is needed for that.
func TestExportNFS(t *testing.T) {
	need(t, "exportfs", "nfs-kernel-server")
	if os.Geteuid() != 0 {
		t.Skip("exportfs needs root")
	}
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree@1+2=3,x")
	clients, err := export.Clients([]string{"10.0.0.0/24", "10.1.0.7", "2001:db8::/64"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := export.NFS(export.Tree{Label: "x", Path: tree, Clients: clients}); err == nil {
		t.Error("a path that root= cannot name is taken")
	}
	tree = filepath.Join(dir, "tree@1+2=3")
	for _, d := range []string{tree, filepath.Join(dir, "state")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		tree export.Tree
		want string
	}{
		{export.Tree{Clients: clients}, `10\.1\.0\.7\(ro,.*10\.0\.0\.0/24\(ro,sync,.*,secure,root_squash,.*,no_subtree_check,.*fsid=[0-9a-f-]{36}.*2001:db8::/64\(ro,`},
		{export.Tree{Clients: clients[1:2], RW: true}, `10\.1\.0\.7\(rw,sync,.*,secure,no_root_squash,`},
		{export.Tree{Clients: clients, NoSquash: true, Insecure: true}, `10\.0\.0\.0/24\(ro,sync,.*,insecure,no_root_squash,`},
	} {
		tt.tree.Label, tt.tree.Path = "debian12", tree
		set, err := export.NFS(tt.tree)
		if err != nil {
			t.Fatal(err)
		}
		exports := filepath.Join(dir, "exports")
		if err := os.WriteFile(exports, []byte(set.Files[0].Text), 0o644); err != nil {
			t.Fatal(err)
		}
		got := mustRun(t, "unshare", "--mount", "sh", "-ec", `mount --bind "$1" /etc/exports; mount --bind "$2" /var/lib/nfs; exportfs -ra >&2; cat /var/lib/nfs/etab`, "sh", exports, filepath.Join(dir, "state"))
		if !regexp.MustCompile(`(?s)` + tt.want).MatchString(strings.ReplaceAll(got, "\n", " ")) {
			t.Errorf("%s became\n%s", set.Files[0].Text, got)
		}
		if strings.Contains(got, "exportfs:") {
			t.Error(got) // a warning
		}
	}
}

package bootvm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// keepsOut expects that nobody on this host gets anything from the servers of a machine: a user
// without rights runs a client of each protocol, with the user ID of root where the protocol has
// one, on each port of "netroot vm". internal/trial has a test that the same clients get something
// as the machine.
func (b *booted) keepsOut(ctx context.Context, t *testing.T, label string) {
	t.Helper()
	needTools(t, "curl", "nbdinfo", "iscsi-ls", "nfs-ls", "nfs-cp")
	ports := listening(t, b.cmd.Process.Pid)
	if len(ports) < 5 {
		t.Errorf("netroot vm listens on the ports %v only", ports)
	}
	for _, port := range ports {
		nfs := fmt.Sprintf("'nfs://127.0.0.1/%s%%s?version=3&nfsport=%s&mountport=%s&uid=0&gid=0'", label, port, port)
		for _, client := range []string{
			"curl -sSf -m 10 http://127.0.0.1:" + port + "/boot/" + label + ".ipxe",
			"curl -sSf -m 10 http://127.0.0.1:" + port + "/healthz",
			"nbdinfo --list nbd://127.0.0.1:" + port,
			"iscsi-ls iscsi://127.0.0.1:" + port,
			"nfs-ls " + fmt.Sprintf(nfs, ""),
			"nfs-cp /etc/hostname " + fmt.Sprintf(nfs, "/srv/planted"),
		} {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			cmd := exec.CommandContext(ctx, "/bin/sh", "-c", client)
			cmd.Dir = "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			var stdout bytes.Buffer
			cmd.Stdout = &stdout
			if err := cmd.Run(); err == nil || stdout.Len() > 0 || ctx.Err() != nil {
				t.Errorf("%s as nobody: %v, and it printed %q", client, err, stdout.Bytes())
			}
			cancel()
		}
	}
}

// listening returns the ports on which a process listens.
func listening(t *testing.T, pid int) (ports []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	own := map[string]bool{}
	for _, file := range files {
		to, _ := os.Readlink(file)
		own[to] = true
	}
	for line := range strings.Lines(string(table)) {
		w := strings.Fields(line)
		const listens = "0A"
		if len(w) < 10 || w[3] != listens || !own["socket:["+w[9]+"]"] {
			continue
		}
		var port int
		_, hex, _ := strings.Cut(w[1], ":")
		if _, err := fmt.Sscanf(hex, "%X", &port); err != nil {
			t.Fatal(err)
		}
		ports = append(ports, fmt.Sprint(port))
	}
	return ports
}

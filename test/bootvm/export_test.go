package bootvm

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/internal/vm"
)

// TestServerKernel boots from other projects' servers, with the configuration that "netroot export"
// writes.
func TestServerKernel(t *testing.T) {
	needLab(t)
	needTools(t, "nbd-server", "tgtd", "tgt-admin", "busybox", "rpcbind", "rpc.nfsd", "rpc.mountd", "exportfs")
	t.Parallel()
	for transport, want := range map[string][2]string{
		"nbd":   {"nbd0 1 squashfs", "Operation not permitted"},
		"iscsi": {"sda 1 squashfs", "Read-only file system"},
		"nfs":   {"nfs ro,relatime,vers=3", "Read-only file system"},
	} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			m := machine{Transport: transport, Args: []string{"--server", "kernel"}}
			r := m.boot(limit(t, bootLimit), t, `
disk=$(lsblk -rno NAME)
[ "$disk" ] && lsblk -rno NAME,RO,FSTYPE || findmnt -rno FSTYPE,OPTIONS /live/image
systemctl is-system-running --wait
export LC_ALL=C
if [ "$disk" ]; then echo x >/dev/$disk; else mount -o remount,rw /live/image && touch /live/image/x; fi # no server lets a node write
true`)
			if r.err != nil || !strings.HasPrefix(r.stdout, want[0]) || !strings.Contains(r.stdout, "\nrunning\n") || !strings.Contains(r.stdout+r.stderr, want[1]) {
				t.Errorf("want %q: %s", want, r.all())
			}
			if !strings.Contains(r.stderr, "the root comes over "+transport+" from ") {
				t.Error(r.stderr)
			}
		})
	}
}

// TestPxelinux boots as at a site with its own servers: a BIOS machine gets pxelinux, kernel and
// initramfs over TFTP from the exported directory, and its root from nbd-server with the exported
// section. A layer comes from "netroot serve".
func TestPxelinux(t *testing.T) {
	needLab(t)
	needTools(t, "nbd-server")
	t.Parallel()
	ctx := limit(t, bootLimit)
	dir := t.TempDir()
	key, err := vm.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(dir, "layers/key/root/.ssh/authorized_keys")
	config := filepath.Join(dir, "netroot.yaml")
	for name, text := range map[string]string{
		public: string(key.Authorized),
		config: "labels:\n  debian12: {layers: [key], cmdline: audit=0}\n",
		filepath.Join(dir, "tftp/pxelinux.cfg/default"): "DEFAULT disk\nLABEL disk\n  LOCALBOOT 0\n",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	webAddr, nbdAddr := freePort(t), freePort(t)
	_, web, _ := net.SplitHostPort(webAddr)
	_, port, _ := net.SplitHostPort(nbdAddr)
	netroot := func(args ...string) *exec.Cmd { return command(ctx, append([]string{"--config", config}, args...)...) }
	startCommand(t, netroot("serve", "--http", webAddr, "--nbd", "", "--nvme", "", "--iscsi", "", "--nfs", ""))
	for _, args := range []string{
		"export nbd debian12 --server 10.0.2.2 -o " + dir + "/out",
		"export pxelinux debian12 --server 10.0.2.2:" + web + " --transport nbd --site --port " + port + " --console ttyS0 --virtio --default -o " + dir + "/tftp",
	} {
		if r := finish(netroot(strings.Fields(args)...)); r.err != nil {
			t.Fatalf("%s: %s", args, r.all())
		}
	}
	startNBDServer(ctx, t, dir, port)

	serial := filepath.Join(dir, "serial.log")
	m, err := vm.Start(ctx, vm.Config{TFTP: filepath.Join(dir, "tftp"), Bootfile: "pxelinux.0", Mem: 2048, Accel: vm.AccelTCG, SerialLog: serial})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	row := table.add(t.Name(), "debian12", machine{})
	started := time.Now()
	client, err := m.SSH(ctx, key)
	if err != nil {
		console, _ := os.ReadFile(serial)
		t.Fatalf("%v\n%s", err, console)
	}
	defer client.Close()
	var out, errs bytes.Buffer
	status, err := client.Run(ctx, greeting+`
cat /proc/cmdline
lsblk -rno NAME,RO,FSTYPE
systemctl is-system-running --wait
cat /live/image/root/.ssh/authorized_keys 2>&1 | wc -l`, &out, &errs)
	line, rest, _ := strings.Cut(out.String(), "\n")
	row.loggedIn(time.Since(started), line)
	row.note("by pxelinux, from nbd-server")
	row.ended(result{status: status, err: err})
	if err != nil || status != 0 {
		t.Fatalf("%d, %v\n%s\n%s", status, err, out.String(), errs.String())
	}
	for _, want := range []string{
		"BOOT_IMAGE=netroot/debian12@", "/vmlinuz ", "audit=0", "console=ttyS0", "BOOTIF=01-52-54-00-12-34-56", "root=nbd:10.0.2.2:" + port + "/debian12@",
		"nbd0 1 squashfs\nrunning\n",
	} {
		if !strings.Contains(rest, want) {
			t.Errorf("lacks %q:\n%s", want, rest)
		}
	}
	if err := m.PowerOff(ctx, client); err != nil {
		t.Error(err)
	}
}

// startNBDServer starts nbd-server with the files exported to dir/out, which its configuration
// includes as at a site.
func startNBDServer(ctx context.Context, t *testing.T, dir, port string) {
	t.Helper()
	config := filepath.Join(dir, "nbd-server.conf")
	text := fmt.Sprintf("[generic]\n    listenaddr = 127.0.0.1\n    port = %s\n    includedir = %s/out/nbd-server\n", port, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pid := filepath.Join(dir, "nbd-server.pid")
	if out, err := exec.CommandContext(ctx, "nbd-server", "-C", config, "-p", pid).CombinedOutput(); err != nil {
		t.Fatalf("nbd-server: %v\n%s", err, out)
	}
	// It writes its pid after it has gone into the background.
	if err := waitFor(ctx, pid, "\n"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		number, _ := os.ReadFile(pid)
		exec.Command("kill", strings.TrimSpace(string(number))).Run()
	})
}

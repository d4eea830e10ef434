package bootvm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMainJob checks what the README promises, and everything else that a node must have: the image
// boots, its root is an overlay, systemd reports no failure, and the console names the steps.
func TestMainJob(t *testing.T) {
	needLab(t)
	t.Parallel()
	const questions = `
echo "root $(findmnt -no FSTYPE /)"
echo "state $(systemctl is-system-running --wait)"
echo "image $(findmnt -no FSTYPE /live/image) $(findmnt -no OPTIONS /live/image | cut -d, -f1)"
echo "cow $(findmnt -no FSTYPE /live/cow)"
echo "machine-id $(wc -c < /etc/machine-id) $(cmp -s /etc/machine-id /live/image/etc/machine-id && echo image || echo own)"
echo "resolv $(grep -c ^nameserver /etc/resolv.conf)"
echo "written $(echo x > /etc/written && cat /etc/written)"
echo "address $(ip -4 -br addr show eth0 | awk '{print $3}')"
echo "forever $(ip -4 addr show eth0 | grep -o 'valid_lft forever' | sort -u)"
echo "keeper $(ps -o args= -C @netroot-keeper; pgrep -f @netroot-keeper | wc -l)"
echo "hostkeys $(ls /live/image/etc/ssh/ | grep -c host_)"
echo "password $(grep '^root:' /etc/shadow | cut -d: -f2)"
echo "caps $(getcap /usr/bin/ping 2>/dev/null || /sbin/getcap /usr/bin/ping)"
echo "suid $(stat -c %a /usr/bin/su)"
echo "failed $(systemctl --failed --plain --no-legend | wc -l)"
systemctl --failed --plain --no-legend
exit 42`
	r := machine{}.boot(limit(t, bootLimit), t, questions)
	if r.status != 42 {
		t.Fatalf("status %d, want the command's 42: %s", r.status, r.all())
	}
	for _, want := range []string{
		"root overlay", "state running", "image squashfs ro", "cow tmpfs", "machine-id 33 own", "resolv 1", "written x", "address 10.0.2.15/24",
		"forever valid_lft forever", "hostkeys 0", "password *", "suid 4755", "failed 0",
	} {
		if !strings.Contains(r.stdout, want+"\n") {
			t.Errorf("lacks %q", want)
		}
	}
	for _, step := range []string{"modules:", "network:", "attach:", "mount:", "layers:", "identity:", "switch:"} {
		if !strings.Contains(r.console, "netroot: "+step) {
			t.Errorf("the console lacks the step %s", step)
		}
	}
	if t.Failed() {
		t.Log(r.stdout)
	}
}

// TestBootSaysWhyItFails boots with an export that no server has: the console names the reason, the
// boot is tried again, and with --debug there is a shell.
func TestBootSaysWhyItFails(t *testing.T) {
	needLab(t)
	t.Parallel()
	empty := freePort(t) // no server listens there
	serial := filepath.Join(t.TempDir(), "console.log")
	ctx, cancel := context.WithCancel(limit(t, bootLimit))
	defer cancel()
	cmd := command(ctx, "vm", "debian12", "--ssh-port", "0", "--transport", "nbd", "--server", empty, "--debug", "--serial", serial)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err := waitFor(ctx, serial, "attach: FAILED: dial tcp 10.0.2.2:", "netroot rescue shell: attach failed")
	cancel()
	cmd.Wait()
	if err != nil {
		console, _ := os.ReadFile(serial)
		t.Fatalf("%v\n%s", err, console)
	}
}

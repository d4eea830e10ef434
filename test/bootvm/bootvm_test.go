// Package bootvm goes the whole way as a user would: it builds the programs and
// the Debian recipe, boots the image in qemu machines with real firmware and
// kernel, and asserts from inside. It needs root, qemu and a Debian mirror, and
// runs where NETROOT_BOOT=1 asks for it.
package bootvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lab is what the tests share: the programs, and a state directory with the
// Debian image in it.
var lab struct {
	once    sync.Once
	err     error
	dir     string // of everything
	netroot string
	state   string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if lab.dir != "" {
		os.RemoveAll(lab.dir)
	}
	os.Exit(code)
}

// needLab builds the programs and the image, once. NETROOT_BOOT_STATE names a
// state directory to use, and to keep, instead of a new one.
func needLab(t *testing.T) {
	t.Helper()
	if os.Getenv("NETROOT_BOOT") != "1" {
		t.Skip("boots machines in qemu for minutes; NETROOT_BOOT=1 asks for it (make test does)")
	}
	if os.Geteuid() != 0 {
		t.Skip("building a tree needs root")
	}
	for _, tool := range []string{"qemu-system-x86_64", "mksquashfs", "mmdebstrap"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: .ci/setup installs it", tool)
			}
			t.Skipf("%s is missing", tool)
		}
	}
	lab.once.Do(func() { lab.err = setUpLab() })
	if lab.err != nil {
		t.Fatal(lab.err)
	}
}

func setUpLab() error {
	var err error
	// Beside the trees of a real installation, and not in a memory file system.
	if lab.dir, err = os.MkdirTemp("/var/tmp", "netroot-bootvm-"); err != nil {
		return err
	}
	lab.netroot = filepath.Join(lab.dir, "netroot")
	lab.state = filepath.Join(lab.dir, "state")
	if dir := os.Getenv("NETROOT_BOOT_STATE"); dir != "" {
		lab.state = dir
	}
	for _, program := range []string{"netroot", "netroot-init"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(lab.dir, program), "netroot/cmd/"+program)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, out)
		}
	}
	if os.Getenv("NETROOT_BOOT_STATE") != "" && run(context.Background(), "plan", "debian12").err == nil {
		return nil
	}
	r := run(context.Background(), "build", "debian12")
	fmt.Println(r.stdout)
	if r.err != nil {
		return fmt.Errorf("netroot build debian12: %w\n%s", r.err, r.stderr)
	}
	return nil
}

type result struct {
	stdout, stderr string
	status         int
	err            error
}

// command is netroot with the lab's state and the repository's configuration.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, lab.netroot, append([]string{"--state", lab.state}, args...)...)
	cmd.Dir = "../.." // where netroot.yaml is
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

func run(ctx context.Context, args ...string) result {
	var out, errs bytes.Buffer
	cmd := command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode(), err}
}

// limit bounds a test that boots a machine; an emulated one takes a minute.
func limit(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestMainJob is the README's: the image boots, its root is an overlay, and
// systemd is content.
func TestMainJob(t *testing.T) {
	needLab(t)
	serial := filepath.Join(t.TempDir(), "console.log")
	started := time.Now()
	r := run(limit(t, 6*time.Minute), "vm", "debian12", "--ssh-port", "0", "--serial", serial,
		"--run", "findmnt -no FSTYPE / && systemctl is-system-running --wait")
	console, _ := os.ReadFile(serial)
	if r.err != nil || r.stdout != "overlay\nrunning\n" {
		t.Fatalf("%v, printed %q, want overlay and running\n%s\n%s", r.err, r.stdout, r.stderr, console)
	}
	t.Logf("booted, asked and powered off in %s", time.Since(started).Round(time.Second))
	for _, step := range []string{"modules:", "network:", "attach:", "mount:", "layers:", "identity:", "switch:"} {
		if !bytes.Contains(console, []byte("netroot: "+step)) {
			t.Errorf("the console does not tell of the step %s", step)
		}
	}
}

// TestInside asks one machine everything else that a node must be.
func TestInside(t *testing.T) {
	needLab(t)
	const questions = `
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
	r := run(limit(t, 6*time.Minute), "vm", "debian12", "--ssh-port", "0", "--run", questions)
	if r.status != 42 {
		t.Fatalf("status %d, want the command's 42: %v\n%s", r.status, r.err, r.stderr)
	}
	for _, want := range []string{
		"image squashfs ro", "cow tmpfs", "machine-id 33 own", "resolv 1", "written x", "address 10.0.2.15/24",
		"forever valid_lft forever", "hostkeys 0", "password *", "suid 4755", "failed 0",
	} {
		if !strings.Contains(r.stdout, want+"\n") {
			t.Errorf("lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(r.stdout)
	}
}

// freePort is a port of loopback that a server can be started on again.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startServe starts "netroot serve" with one transport, and returns when it listens.
func startServe(t *testing.T, transport, address string) *exec.Cmd {
	t.Helper()
	args := []string{"serve", "--http", "127.0.0.1:0"}
	for _, name := range []string{"nbd", "nvme", "iscsi"} {
		if name == transport {
			args = append(args, "--"+name, address)
		} else {
			args = append(args, "--"+name, "")
		}
	}
	cmd := command(t.Context(), args...)
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		buf := make([]byte, 4096)
		n, _ := pipe.Read(buf)
		ready <- bytes.Contains(buf[:n], []byte("serving"))
		io.Copy(io.Discard, pipe)
	}()
	if !<-ready {
		cmd.Process.Kill()
		t.Fatal("netroot serve did not start")
	}
	return cmd
}

// TestTransports boots by each transport that the others do not use.
func TestTransports(t *testing.T) {
	needLab(t)
	for transport, want := range map[string]string{
		"nbd":   "nbd0  1 squashfs",
		"iscsi": "sda iscsi 1 squashfs",
		"http":  "loop0  1 squashfs",
	} {
		t.Run(transport, func(t *testing.T) {
			r := run(limit(t, 6*time.Minute), "vm", "debian12", "--ssh-port", "0", "--transport", transport,
				"--run", "lsblk -rno NAME,TRAN,RO,FSTYPE; systemctl is-system-running --wait")
			if r.err != nil || r.stdout != want+"\nrunning\n" {
				t.Errorf("%v, printed %q, want %s and running\n%s", r.err, r.stdout, want, r.stderr)
			}
		})
	}
}

// TestServerLoss kills the root's server outright under a node that reads what
// it has not read before, and starts a new one a minute later.
func TestServerLoss(t *testing.T) {
	needLab(t)
	for transport, trace := range map[string]string{
		"nbd":   "netroot: keeper: connected",
		"iscsi": "netroot: keeper: connected",
		"nvme":  "Successfully reconnected",
	} {
		t.Run(transport, func(t *testing.T) { testServerLoss(t, transport, trace) })
	}
}

// testServerLoss expects the trace in the kernel's log when the connection was
// lost and found again.
func testServerLoss(t *testing.T, transport, trace string) {
	const away = 60 * time.Second
	address := freePort(t)
	server := startServe(t, transport, address)
	defer func() { server.Process.Kill(); server.Wait() }()

	reading, tell := io.Pipe()
	defer reading.Close()
	var errs bytes.Buffer
	ctx := limit(t, 8*time.Minute)
	cmd := command(ctx, "vm", "debian12", "--ssh-port", "0", "--transport", transport, "--server", address, "--run", `
before=$(cut -d. -f1 /proc/uptime)
echo ready
echo 3 > /proc/sys/vm/drop_caches
`+readMuch+`
echo "took $(($(cut -d. -f1 /proc/uptime) - before))"
dmesg | grep -c '`+trace+`'`)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, tell), &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, _ := reading.Read(buf); !bytes.HasPrefix(buf[:n], []byte("ready")) {
		cmd.Wait()
		t.Fatalf("the machine did not come up: %q\n%s", buf[:n], errs.String())
	}
	go io.Copy(io.Discard, reading)
	server.Process.Kill()
	server.Wait()
	select { // the time the server is away is what is tested
	case <-time.After(away):
	case <-ctx.Done():
	}
	server = startServe(t, transport, address)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out.String(), errs.String())
	}
	lines := strings.Fields(out.String())
	want := treeDigest(t)
	if len(lines) < 5 || lines[1] != want {
		t.Errorf("the node read %q, want digest %s", out.String(), want)
	}
	if lines[len(lines)-1] == "0" {
		t.Error("the node did not connect again: did it read all before the server was killed?")
	}
	t.Logf("server away for %s; %s", away, strings.Join(lines[3:5], " "))
}

// readMuch reads what a node has not read before its login, for tens of seconds.
const readMuch = "find /usr/lib/x86_64-linux-gnu /usr/lib/modules -xdev -type f -size -4M -print0 | sort -z | xargs -0 cat | sha256sum"

// treeDigest is what the node computes, computed from the tree.
func treeDigest(t *testing.T) string {
	out, err := exec.Command("chroot", filepath.Join(lab.state, "trees", "debian12"), "sh", "-c",
		readMuch).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[0]
}

// TestBootSaysWhyItFails: an export that no server has is named on the console,
// the boot tries again, and with --debug there is a shell.
func TestBootSaysWhyItFails(t *testing.T) {
	needLab(t)
	empty := freePort(t) // nobody listens there
	serial := filepath.Join(t.TempDir(), "console.log")
	ctx, cancel := context.WithCancel(limit(t, 4*time.Minute))
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

// waitFor waits until a file holds all words.
func waitFor(ctx context.Context, file string, words ...string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		text, _ := os.ReadFile(file)
		missing := ""
		for _, w := range words {
			if !bytes.Contains(text, []byte(w)) {
				missing = w
			}
		}
		if missing == "" {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("never said " + missing)
		}
	}
}

package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	guestfs "netroot/internal/guest"
	"netroot/internal/kernel"
	"netroot/internal/testlog"
	"netroot/internal/vm"
)

// guest is a machine with a kernel of its own, busybox and a few foreign programs: what our
// servers' kernel clients are tried with, for the kernel of the host may lack them.
type guest struct {
	t       *testing.T
	m       *vm.Machine
	l       net.Listener // to which the machine's shells connect
	console *testlog.Buffer
	accept  sync.Mutex
}

// guestScript keeps shells connected to the test, each of which runs what it is sent. So the test
// needs no sshd.
const guestScript = `for i in 1 2; do
	(while :; do nc ` + vm.GuestHost + ` PORT -e /bin/sh || usleep 100000; done) &
done
echo guest: ready
while :; do sleep 1000; done
`

// guestTree is a tree with a kernel and its modules: that of the Debian image which the boot tests
// build, or this system.
func guestTree(t *testing.T) (string, *kernel.Kernel) {
	t.Helper()
	var why []error
	for _, tree := range []string{filepath.Join(os.Getenv("NETROOT_BOOT_STATE"), "trees", "debian12"), "/"} {
		k, err := kernel.Find(tree, "")
		if err == nil {
			return tree, k
		}
		why = append(why, err)
	}
	t.Skipf("no kernel for a guest: let NETROOT_BOOT_STATE name a state directory with a tree of debian12: %v", errors.Join(why...))
	return "", nil
}

// needGuest skips what boots a machine unless that is asked for.
func needGuest(t *testing.T) {
	t.Helper()
	if os.Getenv("NETROOT_BOOT") != "1" {
		t.Skip("boots a machine in qemu; NETROOT_BOOT=1 asks for it")
	}
	need(t, "qemu-system-x86_64", "qemu-system-x86")
	need(t, "busybox", "busybox-static")
}

// startGuest boots a machine that has the modules, what they need, and the programs of this system.
func startGuest(t *testing.T, modules []string, programs ...string) *guest {
	t.Helper()
	tree, k := guestTree(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	initrd := filepath.Join(t.TempDir(), "initrd")
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := writeGuest(initrd, tree, k, append([]string{"virtio_pci", "virtio_net"}, modules...), programs, port); err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, l: l, console: &testlog.Buffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	g.m, err = vm.Start(ctx, vm.Config{Accel: vm.AccelTCG, Mem: 512, Serial: g.console, Args: []string{
		"-kernel", filepath.Join(tree, k.Image), "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 quiet loglevel=6 mitigations=off"}})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.m.Kill()
		cancel()
		if t.Failed() {
			t.Logf("console of the guest:\n%s", g.console)
		}
	})
	return g
}

// writeGuest writes the guest's initial file system.
func writeGuest(file, tree string, k *kernel.Kernel, modules, programs []string, port string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	g := guestfs.Guest{ModuleDir: filepath.Join(tree, k.ModuleDir), Modules: modules, Programs: programs, Script: strings.Replace(guestScript, "PORT", port, 1)}
	return errors.Join(g.Write(f), f.Close())
}

// guestPatience is how long the guest may take for one script, and until it asks for the next.
const guestPatience = time.Minute

// sh runs a shell script in the guest and returns what it printed on both channels. Two may run at
// once.
func (g *guest) sh(script string) (string, error) {
	conn, err := g.shell()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(guestPatience))
	fmt.Fprintf(conn, "exec 2>&1\n(%s\n)\necho \"status $?\"\nexit\n", script)
	b, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("in the guest: %s: %w\n%s", script, err, b)
	}
	at := strings.LastIndex(string(b), "status ")
	if at < 0 {
		return "", fmt.Errorf("in the guest: %s: ended without a status\n%s", script, b)
	}
	out := strings.TrimSuffix(string(b[:at]), "\n")
	if status := strings.TrimSpace(string(b[at:])); status != "status 0" {
		return out, fmt.Errorf("in the guest: %s: %s\n%s", script, status, out)
	}
	return out, nil
}

// shell waits for a shell of the guest's.
func (g *guest) shell() (net.Conn, error) {
	g.accept.Lock()
	defer g.accept.Unlock()
	type accepted struct {
		conn net.Conn
		err  error
	}
	next := make(chan accepted, 1)
	g.l.(*net.TCPListener).SetDeadline(time.Now().Add(guestPatience))
	go func() {
		conn, err := g.l.Accept()
		next <- accepted{conn, err}
	}()
	select {
	case a := <-next:
		return a.conn, a.err
	case <-g.m.Done():
		return nil, fmt.Errorf("the guest has ended: %w", g.m.Wait())
	}
}

// run is sh for a command that must succeed.
func (g *guest) run(script string) string {
	g.t.Helper()
	out, err := g.sh(script)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// TestLinux is the judgement of the Linux kernel's clients, of nvme-cli and of nbd-client. It boots
// one machine for all its parts.
func TestLinux(t *testing.T) {
	needGuest(t)
	need(t, "nvme", "nvme-cli")
	need(t, "nbd-client", "nbd-client")
	need(t, "fio", "fio")
	g := startGuest(t, []string{"nvme_tcp", "crc32c_generic", "nbd"}, "nvme", "nbd-client", "fio")
	began := time.Now()
	t.Logf("Linux %s", g.run("uname -r"))
	t.Logf("the guest was there after %v", time.Since(began).Round(time.Second))
	parts := []struct {
		name string
		test func(*testing.T, *guest)
	}{
		{"NVMeDiscover", nvmeDiscover}, {"NVMeFabrics", nvmeFabrics}, {"NVMeRead", nvmeRead}, {"NVMeDescribe", nvmeDescribe},
		{"NVMeRefuse", nvmeRefuse}, {"NVMeFio", nvmeFio}, {"NVMeNoComplaints", nvmeNoComplaints}, {"NVMeRestart", nvmeRestart},
		{"NVMeSecondServer", nvmeSecondServer}, {"NVMeVanish", nvmeVanish}, {"NBD", nbdPlain}, {"NBDTLS", nbdSecure},
	}
	for _, p := range parts {
		if !t.Run(p.name, func(t *testing.T) {
			outer := g.t
			g.t = t
			defer func() { g.t = outer }()
			p.test(t, g)
		}) {
			t.Log(g.sh("dmesg | tail -40"))
			return // what follows would find another machine than it expects
		}
	}
}

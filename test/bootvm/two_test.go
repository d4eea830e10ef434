package bootvm

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// elsewhere is the address of the second server. It is not on this host's loopback, for which a
// machine behind qemu's user network has only one address.
const elsewhere = "192.0.2.77"

// TestTwoServers boots from two servers that the label names, and kills the server that the node
// reads from.
func TestTwoServers(t *testing.T) {
	needLab(t)
	t.Parallel()
	ownNetwork(t)
	address := freePort(t)
	_, port, _ := net.SplitHostPort(address)
	servers := map[string]*exec.Cmd{
		"10.0.2.2": startServe(t, "nvme", address),
		elsewhere:  startServe(t, "nvme", net.JoinHostPort(elsewhere, port)),
	}
	config := filepath.Join(t.TempDir(), "netroot.yaml")
	if err := os.WriteFile(config, []byte("labels:\n  debian12:\n    servers: ["+elsewhere+"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx := limit(t, bootLimit)
	m := machine{Transport: "nvme", Args: []string{"--server", address, "--config", config}}
	b := m.start(ctx, t, paths+"echo 3 > /proc/sys/vm/drop_caches\n"+readMuch+paths)
	used := usedPath(ctx, t, b)
	stop(servers[used])
	r := b.wait()
	if r.err != nil {
		t.Fatal(r.all())
	}
	_, rest, _ := strings.Cut(r.stdout, "end\n")
	f := strings.Fields(rest)
	if want := treeDigest(t); len(f) < 3 || f[2] != want {
		t.Fatalf("the node read %q, want digest %s", rest, want)
	}
	for host := range servers {
		state := "live"
		if host == used {
			state = "connecting"
		}
		if !strings.Contains(rest, "path "+host+" "+state+" ") {
			t.Errorf("finally the path through %s is not %s:\n%s", host, state, rest)
		}
	}
	b.note("one of two servers killed for good, longest stall %s s", f[1])
}

// paths prints the paths to the root's disk: server, state, and the number of sectors read over it.
const paths = `
for c in /sys/class/nvme/nvme?; do
	address=$(cat $c/address) read=0
	for s in $c/nvme*c*n*/stat; do [ ! -e $s ] || read -r _ _ read _ < $s; done
	address=${address#traddr=}
	echo "path ${address%%,*} $(cat $c/state) $read"
done
echo end
`

// usedPath waits until the machine has reported its two paths, and returns the server from which it
// has read most.
func usedPath(ctx context.Context, t *testing.T, b *booted) (host string) {
	t.Helper()
	for tick := time.Tick(100 * time.Millisecond); !strings.Contains(b.said(), "end\n"); {
		select {
		case <-tick:
		case <-b.ended:
			t.Fatal(b.wait().all())
		case <-ctx.Done():
			t.Fatalf("the machine did not print its paths: %s", b.said())
		}
	}
	told, _, _ := strings.Cut(b.said(), "end\n")
	most := int64(-1)
	live := 0
	for line := range strings.Lines(told) {
		var h, state string
		var read int64
		if _, err := fmt.Sscanf(line, "path %s %s %d", &h, &state, &read); err != nil || state != "live" {
			t.Fatalf("%q: %v", line, err)
		}
		if live++; read > most {
			host, most = h, read
		}
	}
	if live != 2 {
		t.Fatalf("%d paths, want one for each server:\n%s", live, told)
	}
	return host
}

// ownNetwork moves this test, and everything that it starts afterwards, into a network namespace
// that has both addresses.
func ownNetwork(t *testing.T) {
	t.Helper()
	needTools(t, "ip")
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"link set lo up", "address add " + elsewhere + "/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
}

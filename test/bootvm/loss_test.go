package bootvm

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestServerLoss kills the root's server while a node reads what it has not read before, and starts
// a new server a minute later.
func TestServerLoss(t *testing.T) {
	needLab(t)
	t.Parallel()
	for transport, trace := range map[string]string{
		"nbd":   "netroot: keeper: connected",
		"iscsi": "netroot: keeper: connected",
		"nvme":  "Successfully reconnected",
	} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			testServerLoss(t, transport, trace)
		})
	}
}

// testServerLoss expects trace in the kernel's log after the connection was lost and restored.
func testServerLoss(t *testing.T, transport, trace string) {
	const away = 60 * time.Second
	address := freePort(t)
	server := startServe(t, transport, address)
	ctx := limit(t, bootLimit)
	m := machine{Transport: transport, Args: []string{"--server", address}}
	b := m.start(ctx, t, `
echo 3 > /proc/sys/vm/drop_caches
`+readMuch+`
`+hurt+`
dmesg | grep -c '`+trace+`'`)
	stop(server)
	select { // this tests an absence of the server of that length
	case <-time.After(away):
	case <-ctx.Done():
	}
	startServe(t, transport, address)
	r := b.wait()
	if r.err != nil {
		t.Fatal(r.all())
	}
	f := strings.Fields(r.stdout)
	want := treeDigest(t)
	if len(f) != 7 || f[2] != want {
		t.Fatalf("the node read %q, want digest %s", r.stdout, want)
	}
	if got := strings.Join(f[3:6], " "); got != "0 0 0" {
		t.Errorf("something in the node was killed: processes by the kernel, failed units, services started again: %s", got)
	}
	if f[6] == "0" {
		t.Error("the node did not connect again: did it read all before the server was killed?")
	}
	b.note("server away %s, longest stall %s s", away, f[1])
}

// readMuch reads files that a node has not read before its login, for tens of seconds. It prints
// the longest time without data in seconds, and a digest of what it read.
const readMuch = `
{ find /usr/lib/x86_64-linux-gnu /usr/bin -xdev -type f -size -4M -print0 | sort -z | {
	longest=0 last=${EPOCHREALTIME/./}
	while mapfile -d '' -n 16 files && [ ${#files[@]} -gt 0 ]; do
		cat -- "${files[@]}"
		now=${EPOCHREALTIME/./}
		[ $((now - last)) -le $longest ] || longest=$((now - last))
		last=$now
	done
	echo longest $((longest / 1000000)) >&3
} | sha256sum | cut -d' ' -f1; } 3>&1
`

// hurt counts what a node lost while its root did not answer: processes killed by the kernel,
// failed units, and services that were started again.
const hurt = `
dmesg | grep -cE 'Out of memory|Killed process'
systemctl --failed --plain --no-legend | wc -l
systemctl show --property NRestarts --value '*.service' | awk '{ n += $1 } END { print n + 0 }'`

// treeDigest returns the same digest, computed from the tree on the host.
func treeDigest(t *testing.T) string { return digestIn(t, treeDir()) }

func digestIn(t *testing.T, tree string) string {
	t.Helper()
	out, err := exec.Command("chroot", tree, "bash", "-c", readMuch).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[2]
}

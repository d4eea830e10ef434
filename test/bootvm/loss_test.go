package bootvm

import (
	"context"
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
			address := freePort(t)
			server := startServe(t, transport, address)
			s := machine{Transport: transport, Args: []string{"--server", address}}.session(limit(t, bootLimit), t)
			s.greet()
			s.loses(server, transport, address, trace)
			if r := s.powerOff(); r.err != nil || t.Failed() {
				t.Errorf("%s", r.all())
			}
		})
	}
}

// serverAway is how long a server is away in the tests of its loss.
const serverAway = time.Minute

// away kills a server and waits. The machine of the test, which cannot do anything meanwhile, leaves
// its core to others.
func away(ctx context.Context, t *testing.T, server *exec.Cmd) {
	back := processors.leave(t)
	defer back()
	stop(server)
	select { // this tests an absence of the server of that length
	case <-time.After(serverAway):
	case <-ctx.Done():
	}
}

// loses kills the root's server while the machine reads what it has not read before, and starts a
// new server a minute later. It expects trace in the kernel's log after the connection was lost and
// restored. The reader does not depend on a login, which would end before the server is back.
func (s *session) loses(server *exec.Cmd, transport, address, trace string) {
	s.t.Helper()
	s.ask("cat > /run/reader <<'EOF'\n" + `
echo 3 > /proc/sys/vm/drop_caches
: > /run/begun
` + readMuch + hurt + `
dmesg | grep -c '` + trace + "'\nEOF\n" + `
nohup bash -c 'bash /run/reader > /run/reads; mv /run/reads /run/answer' > /dev/null 2>&1 < /dev/null &
until [ -e /run/begun ]; do sleep 0.1; done`)
	away(s.ctx, s.t, server)
	startServe(s.t, transport, address)
	f := strings.Fields(s.ask("until [ -e /run/answer ]; do sleep 1; done; cat /run/answer"))
	want := treeDigest(s.t)
	if len(f) != 7 || f[2] != want {
		s.t.Fatalf("the node read %q, want digest %s", f, want)
	}
	if got := strings.Join(f[3:6], " "); got != "0 0 0" {
		s.t.Errorf("something in the node was killed: processes by the kernel, failed units, services started again: %s", got)
	}
	if f[6] == "0" {
		s.t.Error("the node did not connect again: did it read all before the server was killed?")
	}
	s.note("server away %s, longest stall %s s", serverAway, f[1])
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

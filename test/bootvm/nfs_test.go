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

// nfsConfig writes a configuration in which debian12 has an exported tree and further keys.
func nfsConfig(t *testing.T, tree, keys string) string {
	t.Helper()
	recipe, err := filepath.Abs("../../recipes/debian.def")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "netroot.yaml")
	text := fmt.Sprintf("labels:\n  debian12:\n    recipe: %s\n    tree: %s\n    %s\n", recipe, tree, keys)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// copyTree makes a copy of the lab's tree for a test.
func copyTree(t *testing.T, name string) string {
	t.Helper()
	tree := filepath.Join(lab.dir, name)
	if out, err := exec.Command("cp", "-a", "--reflink=auto", filepath.Join(lab.state, "trees", "debian12"), tree).CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
	return tree
}

// says waits until the machine's script has printed a word.
func (b *booted) says(ctx context.Context, t *testing.T, word string) {
	t.Helper()
	over := false
	if !until(ctx, func() bool {
		select {
		case <-b.ended:
			over = true
		default:
		}
		return over || strings.Contains(b.said(), word+"\n")
	}) || over {
		t.Fatalf("the machine did not say %q: %s", word, b.wait().all())
	}
}

// has checks that a machine has printed the lines.
func (r result) has(t *testing.T, lines ...string) {
	t.Helper()
	for _, want := range lines {
		if !strings.Contains("\n"+r.stdout, "\n"+want+"\n") {
			t.Errorf("lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(r.all())
	}
}

// TestNFS boots from a live tree: the node sees changes in the tree on the host, and waits for a
// server that is killed for a minute.
func TestNFS(t *testing.T) {
	needLab(t)
	t.Parallel()
	tree := copyTree(t, "nfs-tree")
	dir := filepath.Join(tree, "srv/test")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write("changed", "old content\n")
	write("gone", "")
	write("replaced", "old\n")
	config, address := nfsConfig(t, tree, "transport: nfs"), freePort(t)
	server := startServe(t, "nfs", address, "--nfs-any-port", "--config", config)
	ctx := limit(t, bootLimit)
	b := machine{Transport: "nfs", Args: []string{"--config", config, "--server", address}}.start(ctx, t, `
cd /live/image/srv/test
echo "root $(findmnt -no FSTYPE /) over $(findmnt -no FSTYPE /live/image)"
echo "options $(findmnt -no OPTIONS /live/image | tr , '\n' | grep -c -x -e ro -e vers=3 -e hard -e nolock)"
echo "written $(echo x > /srv/test/written && cat /srv/test/written) $(touch written 2>&1 | grep -o 'Read-only file system')"
echo "state $(systemctl is-system-running --wait)"
echo "through the overlay $(cat /srv/test/replaced) $(cat /srv/test/new 2>&1 | grep -o 'No such file')"
echo "before $(ls | tr '\n' ' ') $(cat changed)"
until [ "$(cat changed)" = "new content" ] && [ -e new ] && ! [ -e gone ]; do sleep 1; done
echo "after $(ls | tr '\n' ' ') $(cat changed new)"
until [ "$(cat /srv/test/replaced 2>&1)" = "new" ] && [ -e /srv/test/new ] && ! [ -e /srv/test/gone ]; do sleep 1; done
cd /
echo 3 > /proc/sys/vm/drop_caches
echo reads
`+readMuch)
	b.says(ctx, t, "before changed gone replaced  old content")
	started := time.Now()
	write("changed", "new content\n")
	write("new", "new file\n")
	write("replaced~", "new\n") // as editors and package managers do
	if err := os.Rename(filepath.Join(dir, "replaced~"), filepath.Join(dir, "replaced")); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Error(err)
	}
	b.says(ctx, t, "reads")
	b.note("a change seen within %s", time.Since(started).Round(time.Second))
	away(ctx, t, server)
	startServe(t, "nfs", address, "--nfs-any-port", "--config", config)
	r := b.wait()
	if r.err != nil {
		t.Fatal(r.all())
	}
	r.has(t, "root overlay over nfs", "options 4", "written x Read-only file system", "state running", "through the overlay old No such file", "after changed new replaced  new content\nnew file")
	readThroughLoss(t, b, r)
}

// TestNFSImage boots from the packed image as a file of a server, with the same loss.
func TestNFSImage(t *testing.T) {
	needLab(t)
	t.Parallel()
	address := freePort(t)
	server := startServe(t, "nfs", address)
	ctx := limit(t, bootLimit)
	b := machine{Transport: "nfs-image", Args: []string{"--server", address}}.start(ctx, t, `
echo "root $(findmnt -no FSTYPE /) over $(findmnt -no FSTYPE,SOURCE /live/image)"
echo "backing $(cat /sys/block/loop0/ro)"
echo "state $(systemctl is-system-running --wait)"
echo 3 > /proc/sys/vm/drop_caches
echo reads
`+readMuch)
	b.says(ctx, t, "reads")
	away(ctx, t, server)
	startServe(t, "nfs", address)
	r := b.wait()
	if r.err != nil {
		t.Fatal(r.all())
	}
	r.has(t, "root overlay over squashfs /dev/loop0", "backing 1", "state running")
	readThroughLoss(t, b, r)
}

// readThroughLoss expects the right digest from readMuch, after a stall that proves that the loss
// happened during the read.
func readThroughLoss(t *testing.T, b *booted, r result) {
	t.Helper()
	f := strings.Fields(r.stdout[strings.LastIndex(r.stdout, "reads\n"):])
	var longest time.Duration
	if len(f) == 4 {
		longest, _ = time.ParseDuration(f[2] + "s")
	}
	if len(f) != 4 || f[3] != treeDigest(t) {
		t.Fatalf("the node read %q, want digest %s", f, treeDigest(t))
	}
	if longest < serverAway/2 {
		t.Errorf("the longest stall was %s: did it read all before the server was killed?", longest)
	}
	b.note("server away %s, longest stall %s", serverAway, longest)
}

// TestNFSRW lets one node write to a tree: what it writes is in the tree on the host, and still
// there after a reboot. Then the exerciser compares the node's root with a local file system.
func TestNFSRW(t *testing.T) {
	needLab(t)
	t.Parallel()
	tree := copyTree(t, "rw-tree")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(tree, "opt/exercise"), "netroot/test/exercise")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the exerciser: %v\n%s", err, out)
	}
	config := nfsConfig(t, tree, "rw: true")
	t.Run("write", func(t *testing.T) { nfsWrite(t, tree, config) })
	if t.Failed() {
		return
	}
	t.Run("exercise", func(t *testing.T) { nfsExercise(t, tree, config) })
}

// nfsWrite makes a node write as root and as another user, while another machine requests the same
// tree.
func nfsWrite(t *testing.T, tree, config string) {
	ctx := limit(t, bootLimit)
	b := machine{Args: []string{"--config", config}}.start(ctx, t, `
as() { setpriv --reuid 12345 --regid 23456 --clear-groups "$@" 2>&1; }
echo "root $(findmnt -no FSTYPE /) $(findmnt -no OPTIONS / | cut -d, -f1)"
echo "state $(systemctl is-system-running --wait)"
mkdir -p /srv/written/dir && echo "from the node" > /srv/written/file && chmod 4751 /srv/written/file && chown 12:34 /srv/written/dir
ln /srv/written/file /srv/written/link && mkfifo /srv/written/fifo && mknod /srv/written/null c 1 3
cp /usr/bin/id /srv/written/id && chmod 4755 /srv/written/id
echo "forbidden $(as touch /etc/forbidden | grep -o 'Permission denied') $(as cat /etc/shadow | grep -o 'Permission denied')"
echo "allowed $(as sh -c 'echo mine > /var/tmp/mine && stat -c %u:%g /var/tmp/mine')"
echo "suid $(as /srv/written/id -u)"
chmod 700 /srv/written/dir
echo "searched $(as ls /srv/written/dir | grep -o 'Permission denied')"
echo written
until [ -e /srv/written/continue ]; do sleep 1; done
`)
	b.says(ctx, t, "written")
	b.keepsOut(ctx, t, "debian12")
	if _, err := os.Stat(filepath.Join(tree, "srv/planted")); err == nil {
		t.Error("nobody wrote to the tree")
	}
	other := run(ctx, "vm", "debian12", "--ssh-port", "0", "--config", config, "--run", "true")
	if other.status == 0 || !strings.Contains(other.stderr, "must be alone") {
		t.Errorf("a second machine was not refused with the reason: %s", other.all())
	}
	// The node's own writes are on the host at this point.
	if text, err := os.ReadFile(filepath.Join(tree, "srv/written/file")); string(text) != "from the node\n" {
		t.Errorf("the host reads %q, %v", text, err)
	}
	for name, want := range map[string]struct{ mode, uid, gid uint32 }{
		"srv/written/file": {syscall.S_IFREG | 0o4751, 0, 0}, "srv/written/link": {syscall.S_IFREG | 0o4751, 0, 0},
		"srv/written/dir": {syscall.S_IFDIR | 0o700, 12, 34}, "srv/written/fifo": {syscall.S_IFIFO | 0o644, 0, 0},
		"srv/written/null": {syscall.S_IFCHR | 0o644, 0, 0}, "var/tmp/mine": {syscall.S_IFREG | 0o644, 12345, 23456},
	} {
		var st syscall.Stat_t
		err := syscall.Lstat(filepath.Join(tree, name), &st)
		if err != nil || st.Mode != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s is %#o of %d:%d on the host (%v), want %#o of %d:%d", name, st.Mode, st.Uid, st.Gid, err, want.mode, want.uid, want.gid)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "srv/written/continue"), nil, 0o644); err != nil {
		t.Error(err)
	}
	r := b.wait()
	if r.err != nil {
		t.Fatal(r.all())
	}
	r.has(t, "root nfs rw", "state running", "forbidden Permission denied Permission denied", "allowed 12345:23456", "suid 0", "searched Permission denied")
}

// nfsExercise boots the tree again. When a server is killed while the node writes, nothing is lost.
// Then the exerciser runs.
func nfsExercise(t *testing.T, tree, config string) {
	ctx := limit(t, 2*bootLimit)
	address := freePort(t)
	server := startServe(t, "nfs", address, "--nfs-any-port", "--config", config)
	b := machine{Args: []string{"--config", config, "--server", address}}.start(ctx, t, `
echo "again $(cat /srv/written/file) $(stat -c %h /srv/written/link)"
echo streams
for i in 1 2 3 4; do seq $i 4 4000000 > /srv/written/stream$i & done; wait; sync
echo 3 > /proc/sys/vm/drop_caches
echo "stream $(cat /srv/written/stream* | sha256sum)"
mkdir /srv/exercise /mnt/ref && mount -t tmpfs none /mnt/ref
/opt/exercise -seed 1 -ops 1000 -workers 2 -files 200 -threads 80 -drop-caches all /srv/exercise /mnt/ref && echo "left $(ls -A /srv/exercise | wc -l)"
`)
	b.says(ctx, t, "streams")
	part := filepath.Join(tree, "srv/written/stream1")
	until(ctx, func() bool {
		i, err := os.Stat(part)
		return err == nil && i.Size() > 100_000
	})
	stop(server)
	startServe(t, "nfs", address, "--nfs-any-port", "--config", config)
	r := b.wait()
	if r.err != nil {
		t.Fatal(r.all())
	}
	want := exec.Command("sh", "-c", "for i in 1 2 3 4; do seq $i 4 4000000; done | sha256sum")
	sum, err := want.Output()
	if err != nil {
		t.Fatal(err)
	}
	r.has(t, "again from the node 2", "stream "+string(bytes.TrimSpace(sum)), "left 0")
	t.Log(r.stdout)
}

package bootvm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// combination is a combination of transport and firmware that must work.
type combination struct {
	machine
	disk string // expected output of lsblk for the root's disk: NAME TRAN RO FSTYPE
}

// TestMatrix boots with each transport and each firmware that the other tests do not cover. Over
// every transport, the root must survive a reboot and allow the machine to power off.
func TestMatrix(t *testing.T) {
	needLab(t)
	t.Parallel()
	for name, c := range map[string]combination{
		"nbd":       {machine{Transport: "nbd"}, "nbd0  1 squashfs"},
		"iscsi":     {machine{Transport: "iscsi"}, "sda iscsi 1 squashfs"},
		"http":      {machine{Transport: "http"}, "loop0  1 squashfs"},
		"nvme-uefi": {machine{Transport: "nvme", Firmware: "uefi"}, "nvme0n1 nvme 1 squashfs"},
		"http-uefi": {machine{Transport: "http", Firmware: "uefi"}, "loop0  1 squashfs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, treeDir())
		})
	}
}

// questioned is a file that no boot reads.
const questioned = "usr/bin/perl"

// check boots, compares what the machine reports with the tree of its image, reboots it, compares
// again, and ends it.
func (c combination) check(t *testing.T, tree string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(tree, questioned))
	if err != nil {
		t.Fatal(err)
	}
	s := c.session(limit(t, 2*bootLimit), t)
	s.greet()
	want := fmt.Sprintf("%s\nroot overlay\nstate running\nkeeper -1000 locked small\ndigest %x\nacl %s\n", c.disk, sha256.Sum256(content), accessOf(t, filepath.Join(tree, questioned)))
	ask := s.ask
	if c.Transport == "http" {
		ask = s.alone // the whole root is in memory
	}
	if got := ask(questions); got != want {
		t.Errorf("it says\n%s\nwant\n%s", got, want)
	}
	s.note("back from a reboot in %s", s.reboot().Round(time.Second))
	if got := ask(questions); got != want {
		t.Errorf("after a reboot it says\n%s\nwant\n%s", got, want)
	}
	if r := s.powerOff(); r.err != nil || t.Failed() {
		t.Errorf("%s", r.all())
	}
}

// questions must have the same answers before and after a reboot.
const questions = `
lsblk -rno NAME,TRAN,RO,FSTYPE
echo "root $(findmnt -no FSTYPE /)"
echo "state $(systemctl is-system-running --wait)"; systemctl --failed --plain --no-legend
` + keeper + `
echo "digest $(sha256sum < /` + questioned + ` | cut -d' ' -f1)"
echo "acl $(ls -l /` + questioned + ` | cut -c11 | tr ' ' -)"
`

// keeper checks the keeper, which every node with a leased address has: the OOM killer spares it,
// it is locked in memory except for what the kernel maps into it, and it takes only the memory that
// it uses. Go reserves 40 MiB more.
const keeper = `
keeper=$(pgrep -f ^@netroot-keeper)
echo "keeper $(cat /proc/$keeper/oom_score_adj) $(awk '{ kib[$1] = $2 } END {
	print (kib["VmSize:"] - kib["VmLck:"] < 1024 ? "locked" : kib["VmLck:"]), (kib["VmRSS:"] < 24 * 1024 ? "small" : kib["VmRSS:"])
}' /proc/$keeper/status)"
`

// accessOf returns the mark of ls for a file with an ACL, + or -.
func accessOf(t *testing.T, file string) string {
	t.Helper()
	_, err := unix.Getxattr(file, aclName, nil)
	switch {
	case err == nil:
		return "+"
	case errors.Is(err, unix.ENODATA):
		return "-"
	}
	t.Fatal(err)
	return ""
}

// TestErofs packs the tree as EROFS, as its label says and then without compression, which a kernel
// reads in another way (erofs_map_blocks in fs/erofs/data.c, z_erofs_map_blocks_iter in zmap.c),
// and boots both.
func TestErofs(t *testing.T) {
	needLab(t)
	needTools(t, "mkfs.erofs")
	t.Parallel()
	// All tests share the lab's own tree. The record beside the tree says what it was built
	// from.
	state := filepath.Join(lab.dir, "erofs")
	trees := filepath.Join(state, "trees")
	tree := filepath.Join(trees, "debian12")
	must(t, os.MkdirAll(trees, 0o755))
	if out, err := exec.Command("cp", "-a", treeDir(), filepath.Join(treeDir(), "../.debian12.files"), trees).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, unix.Setxattr(filepath.Join(tree, questioned), aclName, []byte(forDaemon), 0))
	recipe, err := filepath.Abs("../../recipes/debian.def")
	must(t, err)
	config := filepath.Join(state, "netroot.yaml")
	must(t, os.WriteFile(config, []byte("labels:\n  debian12:\n    recipe: "+recipe+"\n    pack: erofs\n"), 0o644))
	flags := []string{"--config", config, "--state", state}
	t.Run("build", func(t *testing.T) {
		for _, pack := range []string{"", "erofs-uncompressed"} {
			build := append(flags, "build", "debian12", "--update", "--level", "1", "--pack", pack)
			if r := run(limit(t, bootLimit), build...); r.err != nil {
				t.Fatal(r.all())
			}
		}
	})
	if t.Failed() {
		return
	}
	for _, pack := range []string{"erofs", "erofs-uncompressed"} {
		t.Run(pack, func(t *testing.T) {
			t.Parallel()
			c := combination{machine{Transport: "nvme", Pack: pack, Args: flags}, "nvme0n1 nvme 1 erofs"}
			c.check(t, tree)
		})
	}
}

// aclName is the attribute with a file's ACL. forDaemon is an ACL that lets user 1 read in addition
// to those who already may: version 2, then tag, permissions and id of each entry
// (include/uapi/linux/posix_acl_xattr.h).
const (
	aclName   = "system.posix_acl_access"
	forDaemon = "\x02\x00\x00\x00" +
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x01\x00\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
		"\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"
)

package bootstrap

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestLocalImage copies a tree with everything that a file system can store, and compares the
// results of stat.
func TestLocalImage(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("cp"); err != nil {
		t.Skip("needs cp")
	}
	j := job(t, "Bootstrap: localimage\nFrom: golden\n")
	src := filepath.Join(j.Dir, "golden")
	at := func(name string) string { return filepath.Join(src, name) }
	must(t, os.MkdirAll(at("etc/secret"), 0o750))
	must(t, os.Chown(at("etc/secret"), 0, 42))
	must(t, os.WriteFile(at("etc/file"), []byte("x"), 0o640))
	must(t, os.Chown(at("etc/file"), 1234, 5678))
	must(t, os.Chmod(at("etc/file"), 0o4755))
	must(t, unix.Setxattr(at("etc/file"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(t, os.Link(at("etc/file"), at("etc/hard")))
	must(t, os.Symlink("/absolute/dangling", at("link")))
	must(t, os.Lchown(at("link"), 7, 7))
	must(t, unix.Mknod(at("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(t, unix.Mkfifo(at("fifo"), 0o622))
	must(t, os.WriteFile(at("-e name\nwith\xff"), nil, 0o644))
	sparse, err := os.Create(at("sparse"))
	must(t, err)
	must(t, sparse.Truncate(64<<20))
	must(t, sparse.Close())
	for _, name := range []string{"etc/file", "etc/secret", "etc", "."} {
		must(t, os.Chtimes(at(name), time.Unix(1e9, 0), time.Unix(1e9, 123)))
	}

	agent, err := For("localimage")
	must(t, err)
	must(t, agent(t.Context(), j))
	want := describe(t, src)
	got := describe(t, j.Root)
	for _, made := range []string{"dev", "proc", "root", "run", "sys", "tmp", "var", "var/tmp"} {
		if _, ok := got[made]; !ok {
			t.Errorf("the tree has no %s", made)
		}
		delete(got, made)
	}
	delete(want, ".") // its time changed when directories were made in it
	delete(got, ".")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the copy differs (-want +got):\n%s", diff)
	}
}

// describe returns, for every file, the facts that a faithful copy must keep.
func describe(t testing.TB, root string) map[string]string {
	t.Helper()
	got := map[string]string{}
	inodes := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		must(t, err)
		rel, err := filepath.Rel(root, path)
		must(t, err)
		fi, err := os.Lstat(path)
		must(t, err)
		st := fi.Sys().(*syscall.Stat_t)
		s := fmt.Sprintf("%v %d:%d rdev %x %v", fi.Mode(), st.Uid, st.Gid, st.Rdev, fi.ModTime().UnixNano())
		if fi.Mode().IsRegular() {
			s += fmt.Sprintf(" size %d sparse %v", st.Size, st.Blocks*512 < st.Size)
			if first, ok := inodes[st.Ino]; ok {
				s += " link to " + first
			}
			inodes[st.Ino] = rel
		}
		if target, err := os.Readlink(path); err == nil {
			s += " -> " + target
		}
		value := make([]byte, 64)
		if n, err := unix.Lgetxattr(path, "security.capability", value); err == nil {
			s += fmt.Sprintf(" capability %x", value[:n])
		}
		got[rel] = s
		return nil
	}))
	return got
}

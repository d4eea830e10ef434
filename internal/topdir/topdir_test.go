package topdir

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func flags(t *testing.T, dir string) uint32 {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMake(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "state/trees")
	for range 2 {
		if err := Make(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode() != os.ModeDir|0o700 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	file := filepath.Join(top, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{file, filepath.Join(file, "trees")} {
		if err := Make(bad, 0o755); err == nil {
			t.Errorf("made %s", bad)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		t.Skip("only ext4 has the attribute")
	}
	if flags(t, dir)&flag == 0 {
		t.Error("the directory does not have the attribute")
	}
	theirs := filepath.Join(top, "theirs")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Make(theirs, 0o755); err != nil || flags(t, theirs)&flag != 0 {
		t.Errorf("a directory that existed: %v, flags %#x", err, flags(t, theirs))
	}
}

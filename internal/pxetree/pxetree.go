// Package pxetree makes the directory of a TFTP server from which pxelinux boots images: the
// loader, kernels and initramfs files whose names contain the image's id, and one entry for each
// label.
//
//	pxelinux.0 ldlinux.c32        the loader, of the host's packages (lpxelinux.0 for HTTP)
//	netroot/LABEL@ID/vmlinuz ...  the files of an image, while an entry names it
//	pxelinux.cfg/default          entries of other authors, which stay, and ours between marks
//
// The package does not serve the directory, and package export renders the entries. It is safe to
// export to a directory from which machines boot, because every file that an entry names is
// complete.
package pxetree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"

	"netroot/internal/export"
)

// File is a part of an image: a file of the host, and its name in the tree.
type File struct {
	Name, Path string
}

// Image is the image that an entry boots.
type Image struct {
	Name    string // "label@id"
	Kernel  File
	Initrds []File
}

// These are paths in the tree.
const (
	ours = "netroot"
	menu = "pxelinux.cfg/default"
	lock = ours + "/.lock"
)

// FileName returns the path in the tree of a file of an image.
func FileName(image, file string) string { return path.Join(ours, image, file) }

// Change describes what Write changed.
type Change struct {
	Foreign string   // another author's DEFAULT, if it stayed the default
	Removed []string // images that no entry names any more
}

// Write adds the image and its entry to the tree in dir, and makes the tree if it does not exist.
// The loader is copied from the file system at root ("/"); http selects lpxelinux.0. Write
// overwrites only what netroot wrote.
func Write(dir, root string, im Image, e export.Entry, d export.Default, http bool) (Change, error) {
	if err := os.MkdirAll(filepath.Join(dir, ours), 0o755); err != nil {
		return Change{}, err
	}
	unlock, err := lockTree(dir)
	if err != nil {
		return Change{}, err
	}
	defer unlock()
	if err := installLoader(dir, root, http); err != nil {
		return Change{}, err
	}
	if err := installImage(dir, im); err != nil {
		return Change{}, err
	}
	foreign, err := putEntry(filepath.Join(dir, menu), e, d)
	if err != nil {
		return Change{}, err
	}
	removed, err := prune(dir)
	return Change{foreign, removed}, err
}

// lockTree waits for the lock: of two writers at once, each would lose the other's entry.
func lockTree(dir string) (unlock func() error, err error) {
	l := flock.New(filepath.Join(dir, lock), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	if err := l.Lock(); err != nil {
		return nil, fmt.Errorf("lock %s: %w", l, err)
	}
	return l.Close, nil
}

// installImage copies the files of the image to a new directory. Only then does an entry name them.
func installImage(dir string, im Image) error {
	final := filepath.Join(dir, ours, im.Name)
	if err := os.MkdirAll(final, 0o755); err != nil {
		return err
	}
	for _, f := range append([]File{im.Kernel}, im.Initrds...) {
		if err := place(filepath.Join(final, f.Name), f.Path); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(final), syncDir(filepath.Dir(final)))
}

// place copies a file to its place, completely or not at all. A file with the same bytes stays.
func place(dst, src string) error {
	switch same, err := SameFile(dst, src); {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case same:
		return nil
	}
	return CopyFile(dst, src) // which says so if there is no src
}

// CopyFile copies a file that everyone may read, completely or not at all, and syncs it.
func CopyFile(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := renameio.NewPendingFile(dst, renameio.WithTempDir(filepath.Dir(dst)), renameio.WithStaticPermissions(0o644))
	if err != nil {
		return err
	}
	defer out.Cleanup()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.CloseAtomicallyReplace() // this syncs the file first
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// putEntry adds the entry to the file, and returns another author's DEFAULT if it stayed the
// default.
func putEntry(file string, e export.Entry, d export.Default) (foreign string, err error) {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	m, err := export.ParseMenu(file, string(text))
	if err != nil {
		return "", err
	}
	if foreign, err = m.Put(e, d); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	return foreign, renameio.WriteFile(file, []byte(m.Text()), 0o644, renameio.WithTempDir(filepath.Dir(file)), renameio.WithStaticPermissions(0o644))
}

// prune removes images that no configuration of pxelinux names, and the rest of an export that was
// killed.
func prune(dir string) (removed []string, err error) {
	configs, err := readConfigs(filepath.Join(dir, filepath.Dir(menu)))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(dir, ours))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || !strings.Contains(name, "@") || strings.Contains(configs, ours+"/"+name+"/") {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, ours, name)); err != nil {
			return removed, err
		}
		removed = append(removed, name)
	}
	return removed, nil
}

// readConfigs returns the text of all configurations: default, and those for single machines.
func readConfigs(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		b.Write(text)
		b.WriteByte('\n')
		return err
	})
	return b.String(), err
}

package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"netroot/internal/export"
	"netroot/internal/pxetree"
	"netroot/internal/store"
)

// Part is the absolute path of the file of one of an image's parts.
func Part(im *store.Image, role store.Role) (string, error) {
	blob, ok, err := im.Blob(role)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("image %s has no %s", im.Name(), role)
	}
	defer blob.Close()
	return filepath.Abs(blob.Path())
}

// Write puts the files of a set into a directory, each whole or not at all, and returns their paths
// in the order of the set.
func Write(dir string, set export.Set) (paths []string, err error) {
	for _, file := range set.Files {
		path := filepath.Join(dir, file.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return paths, err
		}
		if err := renameio.WriteFile(path, []byte(file.Text), 0o644, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o644)); err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// linkOrCopy gives the file src the name dst as well, or copies it where a link is not possible. A
// dst with the same bytes stays as it is.
func linkOrCopy(dst, src string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	err := os.Link(src, dst)
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		same, serr := pxetree.SameFile(dst, src)
		switch {
		case serr != nil:
			return serr
		case !same:
			return fmt.Errorf("%s exists and is another file: remove it and export again", dst)
		}
		return nil
	}
	if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EMLINK) {
		return err
	}
	return pxetree.CopyFile(dst, src)
}

// privatePaths are paths of a tree that only root can read or search: the first of them, and how
// many more there are.
func privatePaths(tree string) ([]string, error) {
	const shown = 6
	var found []string
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil && !(path != tree && errors.Is(err, fs.ErrPermission)) {
			return err
		}
		info, ierr := d.Info()
		if ierr != nil {
			return nil // it was removed during the walk
		}
		need := os.FileMode(0o004)
		switch {
		case d.IsDir():
			need = 0o005
		case !d.Type().IsRegular():
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 || info.Mode()&need == need {
			return nil
		}
		rel, _ := filepath.Rel(tree, path)
		found = append(found, "/"+rel)
		if d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
	if more := len(found) - shown; more > 0 {
		found = append(found[:shown], fmt.Sprintf("and %d more", more))
	}
	return found, err
}

package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
)

// TreeDir is the directory in a root that contains the root's own layers, each in a directory.
const TreeDir = "etc/rootovl"

// ApplyTree applies layers that root itself has below /etc/rootovl, from the last to the first, so
// that the first wins. For each layer it copies the layer's directory over the root as "cp -a"
// would, and then removes the files that the layer's DeletionList names. It returns the number of
// applied layers.
//
// It reports what it cannot do with the name of the layer, and continues: a missing layer, a file
// that cannot be copied, a line that cannot be carried out. Files are copied by the rules of Apply.
func ApplyTree(root *os.Root, names []string, report func(layer string, err error)) (applied int) {
	return applyTree(rootTarget{root}, root, names, report)
}

// applyTree reads the layers from tree.
func applyTree(t target, tree *os.Root, names []string, report func(layer string, err error)) (applied int) {
	for _, name := range slices.Backward(names) {
		r := limited(func(err error) { report(name, err) })
		if err := applyTreeLayer(t, tree, name, r.tell); err != nil {
			report(name, err)
		} else {
			applied++
		}
		r.close()
	}
	return applied
}

func applyTreeLayer(t target, tree *os.Root, name string, report func(error)) error {
	dir, err := FindTree(tree, name)
	if err != nil {
		return err
	}
	a := newApplier(t)
	a.report = report
	d := &dirReader{dir: filepath.Join(tree.Name(), dir), labels: true, report: report}
	return a.withDeletions(func() error { return a.copy(d) }, false, report)
}

// TreeLayers returns the names of the layers that a root itself has, sorted.
func TreeLayers(root *os.Root) ([]string, error) {
	place, err := resolve(root, TreeDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	err = eachBelow(root, place, func(name string, _ fs.DirEntry) error {
		if _, err := FindTree(root, path.Base(name)); err == nil {
			names = append(names, path.Base(name))
		}
		return fs.SkipDir
	})
	slices.Sort(names)
	return names, err
}

// FindTree returns the place of a layer that the tree itself has, relative to the tree and without
// links.
func FindTree(tree *os.Root, name string) (string, error) {
	if err := handoff.CheckLayerName(name); err != nil {
		return "", err
	}
	full := path.Join(TreeDir, name)
	place, err := resolve(tree, full)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", fmt.Errorf("the root has no /%s", full)
	}
	if err != nil {
		return "", err
	}
	if fi, err := tree.Lstat(place); err != nil || !fi.IsDir() {
		return "", errors.Join(err, fmt.Errorf("/%s is not a directory: a layer must be a directory", full))
	}
	return place, nil
}

// ApplyLayer applies the archive of a layer as Apply does, but does not extract the DeletionList at
// its top: it carries the list out after everything else, including directories. It reports entries
// that cannot be extracted and lines that cannot be carried out, and continues. Only an archive
// that cannot be read is an error.
func ApplyLayer(root *os.Root, r io.Reader, report func(error)) error {
	a := newApplier(rootTarget{root})
	return a.layer(func() error { return a.apply(r) }, report)
}

// layer applies a layer of the server.
func (a *applier) layer(apply func() error, report func(error)) error {
	l := limited(report)
	defer l.close()
	a.report = l.tell
	return a.withDeletions(apply, true, l.tell)
}

var errNoList = errors.New(DeletionList + " is not a file, and nothing is deleted")

// withDeletions keeps the list out of the files that apply extracts, and carries it out afterwards.
func (a *applier) withDeletions(apply func() error, dirs bool, report func(error)) error {
	var list []deletion
	a.take = func(name string, hdr *tar.Header, body io.Reader) (bool, error) {
		top, _, _ := strings.Cut(name, "/")
		switch {
		case top != DeletionList:
			return false, nil
		case name != top: // in a directory of that name
			return true, nil
		case hdr.Typeflag != tar.TypeReg:
			report(errNoList)
			return true, nil
		}
		var err error
		if list, err = readDeletions(body, report); err != nil {
			report(err) // the files of the layer are still useful
		}
		return true, nil
	}
	if err := apply(); err != nil {
		return err
	}
	deleteAll(a.target, list, dirs, report)
	return nil
}

// Measure counts the content of the layer in dir: files (everything that is not a directory), their
// size in bytes, and the lines of its DeletionList that will be carried out.
func Measure(dir string) (files int, size int64, deletions int, err error) {
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || file == filepath.Join(dir, DeletionList) {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().IsRegular() {
			size += fi.Size()
		}
		files++
		return err
	})
	list, _ := readList(dir)
	return files, size, len(list), err
}

// CheckDeletions returns an error for each line of the DeletionList of the layer in dir that will
// be refused.
func CheckDeletions(dir string) (refused []error) {
	_, refused = readList(dir)
	return refused
}

func readList(dir string) (list []deletion, refused []error) {
	file := filepath.Join(dir, DeletionList)
	fi, err := os.Lstat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, []error{err}
	case !fi.Mode().IsRegular():
		return nil, []error{errNoList}
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, []error{err}
	}
	defer f.Close()
	list, err = readDeletions(f, func(err error) { refused = append(refused, err) })
	if err != nil {
		refused = append(refused, err)
	}
	return list, refused
}

// limiter passes on a limited number of reports and counts the others: if the memory is full, every
// file gives a report. Several goroutines may call it.
type limiter struct {
	mu    sync.Mutex
	pass  func(error)
	count int
}

const maxReports = 20

func limited(pass func(error)) *limiter { return &limiter{pass: pass} }

func (l *limiter) tell(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count++; l.count <= maxReports {
		l.pass(err)
	}
}

func (l *limiter) close() {
	if l.count > maxReports {
		l.pass(fmt.Errorf("and %d more reports", l.count-maxReports))
	}
}

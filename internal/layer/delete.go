package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DeletionList is the name of a file at the top of a layer. It lists, one absolute path a line,
// what the layer removes from the root after its own files have been extracted. It is not itself a
// file of the layer.
//
// Blanks at both ends of a line, empty lines and lines that begin with "#" are ignored; a line may
// end in CR LF. Patterns are not expanded. Links on the way are followed inside the root; a link at
// the end of the path is removed itself. A missing file is not an error. Lines that are relative,
// have ".." or name the root are refused; the others are carried out.
const DeletionList = ".rootovldel"

// maxDeletions is the greatest length of a list in bytes. A longer list is refused as a whole.
const maxDeletions = 1 << 20

// deletion is one line of a list.
type deletion struct {
	path string // clean and relative: "etc/motd"
	line int
	dir  bool // the line ends in a slash, so only a directory is removed
}

// String returns the path as an absolute path.
func (d deletion) String() string { return "/" + d.path }

// readDeletions reads a list and reports each line that it refuses.
func readDeletions(r io.Reader, report func(error)) ([]deletion, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDeletions+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", DeletionList, err)
	}
	if len(text) > maxDeletions {
		return nil, fmt.Errorf("%s has more than %d bytes, and nothing is deleted", DeletionList, maxDeletions)
	}
	var out []deletion
	number := 0
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		number++
		text := strings.Trim(string(line), " \t\r")
		if text == "" || text[0] == '#' {
			continue
		}
		d, err := parseDeletion(text)
		if err != nil {
			report(fmt.Errorf("%s line %d: %.200q %w", DeletionList, number, text, err))
			continue
		}
		d.line = number
		out = append(out, d)
	}
	return out, nil
}

func parseDeletion(text string) (deletion, error) {
	clean := path.Clean(text)
	switch {
	case text[0] != '/':
		return deletion{}, errors.New("is not an absolute path")
	case strings.ContainsRune(text, 0):
		return deletion{}, errors.New("contains a NUL byte")
	case slices.Contains(strings.Split(text, "/"), ".."):
		return deletion{}, errors.New(`has ".."`)
	case clean == "/":
		return deletion{}, errors.New("is the root itself")
	}
	return deletion{path: clean[1:], dir: strings.HasSuffix(text, "/")}, nil
}

// apply removes the file that the line names. It removes a directory and everything in it only if
// dirs is set.
func (d deletion) apply(t target, dirs bool) error {
	parent, err := walk(t, path.Dir(d.path), nil)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return d.missing()
	}
	if err != nil {
		return err
	}
	if other, err := t.otherFileSystem(parent); err != nil || other {
		return errors.Join(err, errors.New("is not on the file system of the root"))
	}
	place := path.Join(parent, path.Base(d.path))
	fi, err := t.Lstat(place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.missing()
	case err != nil:
		return err
	case fi.IsDir() && !dirs:
		return errors.New("is a directory: a layer in the tree deletes only files")
	case fi.IsDir():
		return t.removeAll(place)
	case d.dir:
		return errors.New("is not a directory, but the path ends in a slash")
	}
	return t.remove(place)
}

// missing returns an error only if the path looks like a pattern.
func (d deletion) missing() error {
	if strings.ContainsAny(d.path, "*?[") {
		return errors.New("does not exist; patterns are not expanded")
	}
	return nil
}

// deleteAll carries out a list and reports the lines that it cannot carry out.
func deleteAll(t target, list []deletion, dirs bool, report func(error)) {
	for _, d := range list {
		if err := d.apply(t, dirs); err != nil {
			report(fmt.Errorf("%s line %d: %.200q %w", DeletionList, d.line, d.String(), err))
		}
	}
}

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

// DeletionList is the file at the top of a layer that names, one absolute path a line, what the layer removes from the
// root after its own files are in. It is not a file of the layer itself.
//
// Blanks at both ends of a line do not count, nor do empty lines and those that begin with "#"; a line may end in CR LF.
// No pattern is expanded. Links on the way are followed inside the root, a link at the end is removed itself. What is not
// there is no error. Lines that are relative, have ".." or name the root are refused, the others are carried out.
const DeletionList = ".rootovldel"

// maxDeletions is how long a list may be, in bytes. A list that is longer is not a list.
const maxDeletions = 1 << 20

// deletion is one line of a list.
type deletion struct {
	path string // clean and relative: "etc/motd"
	line int
	dir  bool // the line ends in a slash: only a directory is meant
}

// String is the path as the list means it.
func (d deletion) String() string { return "/" + d.path }

// readDeletions reads a list and reports each line that is refused.
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
		return deletion{}, errors.New("is no absolute path")
	case strings.ContainsRune(text, 0):
		return deletion{}, errors.New("has a NUL byte")
	case slices.Contains(strings.Split(text, "/"), ".."):
		return deletion{}, errors.New(`has ".."`)
	case clean == "/":
		return deletion{}, errors.New("is the root itself")
	}
	return deletion{path: clean[1:], dir: strings.HasSuffix(text, "/")}, nil
}

// apply removes what the line names. A directory goes, with all that is in it, only
// where dirs says so.
func (d deletion) apply(t target, dirs bool) error {
	parent, err := walk(t, path.Dir(d.path), nil)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return d.missing()
	}
	if err != nil {
		return err
	}
	if other, err := t.elsewhere(parent); err != nil || other {
		return errors.Join(err, errors.New("is not on the root's own file system"))
	}
	place := path.Join(parent, path.Base(d.path))
	fi, err := t.Lstat(place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.missing()
	case err != nil:
		return err
	case fi.IsDir() && !dirs:
		return errors.New("is a directory, and a layer in the tree deletes only files")
	case fi.IsDir():
		return t.removeAll(place)
	case d.dir:
		return errors.New("is not a directory, as the slash at its end says")
	}
	return t.remove(place)
}

// missing is an error only where a pattern was meant.
func (d deletion) missing() error {
	if strings.ContainsAny(d.path, "*?[") {
		return errors.New("is not there; patterns are not expanded")
	}
	return nil
}

// deleteAll carries out a list and reports what is not removed.
func deleteAll(t target, list []deletion, dirs bool, report func(error)) {
	for _, d := range list {
		if err := d.apply(t, dirs); err != nil {
			report(fmt.Errorf("%s line %d: %.200q %w", DeletionList, d.line, d.String(), err))
		}
	}
}

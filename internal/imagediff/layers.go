package imagediff

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/sys/unix"

	"netroot/internal/layer"
)

// LayerFile is a file of a tree that layers add, change or delete.
type LayerFile struct {
	File
	Layer string `json:"layer"`
	// Text is the difference of a small text, in the format of "diff -u".
	Text string `json:"text,omitempty"`
}

// StatOf describes a file of a preview.
func StatOf(f *layer.File) *Stat {
	if f == nil {
		return nil
	}
	s := &Stat{Type: typeNames[f.Mode&unix.S_IFMT], Mode: fmt.Sprintf("%04o", f.Mode&0o7777), UID: uint32(f.UID), GID: uint32(f.GID),
		Size: f.Size, Target: f.Target, Link: f.Link, Xattrs: f.Xattrs}
	if f.Mode&unix.S_IFMT == unix.S_IFCHR || f.Mode&unix.S_IFMT == unix.S_IFBLK {
		s.Device = fmt.Sprintf("%d:%d", unix.Major(f.Rdev), unix.Minor(f.Rdev))
	}
	return s
}

// Layers compares a tree with the result of layers. It leaves out files that layers add without a
// difference.
func Layers(tree *os.Root, p *layer.Preview) ([]LayerFile, error) {
	out := []LayerFile{}
	for _, c := range p.Changes {
		f := LayerFile{File: File{Op: opOf(c.Old != nil, c.New != nil), Path: c.Path, Old: StatOf(c.Old), New: StatOf(c.New)}, Layer: c.Layer}
		if f.Op == Changed {
			f.Differs = differs(f.Old, f.New)
			if err := f.compare(tree, c); err != nil {
				return nil, fmt.Errorf("compare %s: %w", c.Path, err)
			}
			if len(f.Differs) == 0 {
				continue
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// compare compares the content of a regular file of a layer with the file that it replaces. If the
// content is not from a layer, because the file is a further hard link to a file of the tree, there
// is nothing to compare.
func (f *LayerFile) compare(tree *os.Root, c layer.Change) error {
	if c.Old.Mode&unix.S_IFMT != unix.S_IFREG || c.New.Mode&unix.S_IFMT != unix.S_IFREG || c.New.Sum == [sha256.Size]byte{} {
		return nil
	}
	file, err := tree.Open(strings.TrimPrefix(c.Path, "/"))
	if err != nil {
		return err
	}
	defer file.Close()
	if c.New.Content == nil || c.Old.Size > layer.MaxContent {
		sum := sha256.New()
		if _, err := io.Copy(sum, file); err != nil {
			return err
		}
		if !bytes.Equal(sum.Sum(nil), c.New.Sum[:]) {
			f.Differs = append(f.Differs, "content")
		}
		return nil
	}
	old, err := io.ReadAll(file)
	if err != nil || bytes.Equal(old, c.New.Content) {
		return err
	}
	f.Differs = append(f.Differs, "content")
	if isText(old) && isText(c.New.Content) {
		name := printable(c.Path)
		f.Text = string(diff.Diff("tree "+name, old, c.Layer+" "+name, c.New.Content))
		_, f.Text, _ = strings.Cut(f.Text, "\n") // the line "diff A B"
	}
	return nil
}

// isText reports whether a terminal can show the bytes.
func isText(b []byte) bool {
	return utf8.Valid(b) && !bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f })
}

// PrintLayers prints such a list for people, as Print does, with the layer at the end of each line.
func PrintLayers(w io.Writer, files []LayerFile) error {
	var b strings.Builder
	for i := 0; i < len(files); i++ {
		f := files[i]
		if f.Op == Changed {
			fmt.Fprintf(&b, "~ %s  %s  (%s)\n", Name(f.Path, f.New), strings.Join(explain(f.File), ", "), f.Layer)
			for line := range strings.Lines(f.Text) {
				b.WriteString("    " + strings.TrimSuffix(line, "\n") + "\n")
			}
			continue
		}
		stat := f.New
		if f.Op == Removed {
			stat = f.Old
		}
		below := 0
		for f.Op == Removed && stat.Type == "directory" && i+1 < len(files) && files[i+1].Op == Removed && strings.HasPrefix(files[i+1].Path, f.Path+"/") {
			below++
			i++
		}
		fmt.Fprintf(&b, "%s %s%s  (%s)\n", signs[f.Op], Name(f.Path, stat), describe(stat, below), f.Layer)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

package build

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// metaDir is where Apptainer and Singularity keep what they know of a tree.
const metaDir = ".singularity.d"

// base holds the files of metaDir that every tree has, so that "apptainer
// exec", "shell" and "run" work on ours: scripts that source env/*.sh and start
// what was asked for. Apptainer runs them as /.singularity.d/actions/NAME.
//
//go:embed base
var base embed.FS

// baseLinks are those at the top of a tree, which scripts made for Singularity 2
// and 3 look for.
var baseLinks = [][2]string{
	{"singularity", metaDir + "/runscript"},
	{"environment", metaDir + "/env/90-environment.sh"},
	{".run", metaDir + "/actions/run"},
	{".exec", metaDir + "/actions/exec"},
	{".test", metaDir + "/actions/test"},
	{".shell", metaDir + "/actions/shell"},
}

// baseEnvironment writes what every tree has. With keep, in a tree that was
// made before (localimage, oras, --update), files that are there stay; so does
// the runscript that the agent made of an image's ENTRYPOINT. strict empties
// /etc/hosts too, as Apptainer does; a distribution's own is worth keeping.
func baseEnvironment(root *os.Root, keep, strict bool) error {
	for _, dir := range []string{metaDir + "/libs", "home", "etc"} {
		if err := makeDir(root, dir); err != nil {
			return err
		}
	}
	for _, l := range baseLinks {
		if err := root.Symlink(l[1], l[0]); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	err := fs.WalkDir(base, "base", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := base.ReadFile(name)
		if err != nil {
			return err
		}
		return writeBase(root, metaDir+strings.TrimPrefix(name, "base"), text, 0o755, keep || name == "base/runscript")
	})
	if err != nil {
		return err
	}
	// debootstrap leaves the building host's resolv.conf here. Links are the
	// distribution's own doing.
	if err := writeBase(root, "etc/resolv.conf", nil, 0o644, keep); err != nil {
		return err
	}
	return writeBase(root, "etc/hosts", nil, 0o644, keep || !strict)
}

// writeBase writes a file; one that is there stays if keep says so, and what is
// no plain file stays anyway.
func writeBase(root *os.Root, name string, text []byte, mode fs.FileMode, keep bool) error {
	if fi, err := root.Lstat(name); err == nil && (keep || !fi.Mode().IsRegular()) {
		return nil
	}
	return writeFile(root, name, text, mode)
}

// writeFile puts a new file into a tree, with the directories above it: what
// had the name goes, so that another name of the same file, or what a link
// points at, is not written to.
func writeFile(root *os.Root, name string, text []byte, mode fs.FileMode) error {
	if err := makeDir(root, path.Dir(name)); err != nil {
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.WriteFile(name, text, mode); err != nil {
		return err
	}
	return root.Chmod(name, mode) // whatever the umask is
}

// makeDir makes a directory of a tree with those above it, 0755 whatever the
// umask is.
func makeDir(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	// A link that dangles here may lead somewhere on the node.
	if _, err := root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(root, path.Dir(name)); err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("make the tree's /%s: %w", name, err)
	}
	return root.Chmod(name, 0o755)
}

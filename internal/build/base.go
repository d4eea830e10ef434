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

// metaDir is the directory where Apptainer and Singularity keep the metadata of a tree.
const metaDir = ".singularity.d"

// base holds the files of metaDir that every tree has, so that "apptainer exec", "shell" and "run"
// work on our trees: scripts that source env/*.sh and then start the requested command. Apptainer
// runs them as /.singularity.d/actions/NAME.
//
//go:embed base
var base embed.FS

// baseLinks are the links at the top of a tree that scripts made for Singularity 2 and 3 expect.
var baseLinks = [][2]string{
	{"singularity", metaDir + "/runscript"},
	{"environment", metaDir + "/env/90-environment.sh"},
	{".run", metaDir + "/actions/run"},
	{".exec", metaDir + "/actions/exec"},
	{".test", metaDir + "/actions/test"},
	{".shell", metaDir + "/actions/shell"},
}

// baseEnvironment writes the files that every tree has. keep is set for a tree that was made before
// (localimage, oras, --update): existing files stay, and so does the runscript that the agent made
// from an image's ENTRYPOINT. strict also empties /etc/hosts, as Apptainer does; by default the
// distribution's file stays.
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
	// debootstrap leaves the resolv.conf of the build host here. A symbolic link comes from the
	// distribution and stays.
	if err := writeBase(root, "etc/resolv.conf", nil, 0o644, keep); err != nil {
		return err
	}
	return writeBase(root, "etc/hosts", nil, 0o644, keep || !strict)
}

// writeBase writes a file. An existing file stays if keep is set; anything that is not a regular
// file stays in any case.
func writeBase(root *os.Root, name string, text []byte, mode fs.FileMode, keep bool) error {
	if fi, err := root.Lstat(name); err == nil && (keep || !fi.Mode().IsRegular()) {
		return nil
	}
	return writeFile(root, name, text, mode)
}

// writeFile writes a new file into a tree and makes the directories above it. It removes an
// existing file of that name first, so that nothing is written through a hard link or a symbolic
// link.
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
	return root.Chmod(name, mode) // independent of the umask
}

// makeDir makes a directory of a tree and the directories above it, with mode 0755 independent of
// the umask.
func makeDir(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	// A link that dangles on this host may lead to a place on the node.
	if _, err := root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(root, path.Dir(name)); err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("make directory /%s of the tree: %w", name, err)
	}
	return root.Chmod(name, 0o755)
}

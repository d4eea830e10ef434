package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"netroot/internal/layer"
	"netroot/internal/sandbox"
)

// rpmDBPath is the directory in which the host's rpm first makes the package database of a Tree. EL
// up to 9 looks for it there. Fedora 36, EL 10 and openSUSE look in /usr/lib/sysimage/rpm; Debian's
// rpm would use ~/.rpmdb.
const rpmDBPath = "/var/lib/rpm"

// rpmDB is the package database of a Tree that the host's dnf or yum fills.
type rpmDB struct {
	job  Job    // with the environment for the tools of the host
	home string // a directory that contains only our .rpmmacros
	host string // the host's rpm; empty: the host has none
}

// openRPMDB tells rpm, which dnf and yum call as a library, where to keep the database. rpm has
// neither an option nor a variable for it, only macro files, of which it reads ~/.rpmmacros last:
// rpm(8). openRPMDB therefore makes a home directory for the run, with the content of the caller's
// .rpmmacros and the path.
func openRPMDB(ctx context.Context, j Job) (*rpmDB, error) {
	home, err := os.MkdirTemp("", "netroot-rpm-")
	if err != nil {
		return nil, err
	}
	db := &rpmDB{job: j, home: home}
	// HOME must be set only once: of two values, libraries take the first, and shells the last.
	db.job.Env = append(slices.DeleteFunc(slices.Clone(j.environ()), func(kv string) bool { return strings.HasPrefix(kv, "HOME=") }), "HOME="+home)
	macros, err := os.ReadFile(filepath.Join(j.getenv("HOME"), ".rpmmacros"))
	if err != nil && !os.IsNotExist(err) {
		return nil, errors.Join(err, db.close())
	}
	macros = append(macros, "\n%_dbpath "+rpmDBPath+"\n"...)
	if err := os.WriteFile(filepath.Join(home, ".rpmmacros"), macros, 0o644); err != nil {
		return nil, errors.Join(err, db.close())
	}
	if db.host, err = exec.LookPath("rpm"); err != nil {
		return db, nil // dnf works without the command
	}
	out, err := db.onHost(ctx, "--eval", "%{_dbpath}")
	if path := strings.TrimSpace(string(out)); err == nil && path != rpmDBPath {
		err = fmt.Errorf("this host's rpm keeps its database in %s and ignores ~/.rpmmacros: set %%_dbpath to %s in its macros", path, rpmDBPath)
	}
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	return db, nil
}

func (db *rpmDB) close() error { return os.RemoveAll(db.home) }

// handOver makes the database readable for the Tree's rpm. If that rpm looks elsewhere or does not
// know the format (EL 7 and 8 use Berkeley DB, openSUSE uses ndb, the others sqlite), the headers
// of the packages are exported from one rpm and imported into the other, as in rpm's own migration.
func (db *rpmDB) handOver(ctx context.Context) error {
	root, err := os.OpenRoot(db.job.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := layer.Resolve(root, "/usr/bin/rpm"); err != nil {
		return nil // the tree has no rpm that would look for it
	}
	if err := baseDirs(db.job.Root); err != nil { // the sandbox requires them
		return err
	}
	reads, err := db.inTree(ctx, nil, "rpm", "-qa", "--qf", rpmNames)
	if err != nil {
		return err
	}
	if db.host == "" {
		if len(reads) == 0 {
			return errors.New("the tree's rpm does not find the package database, and this host has no rpm command to convert it: install rpm")
		}
		return nil
	}
	wrote, err := db.onHost(ctx, "--root", db.job.Root, "-qa", "--qf", rpmNames)
	if err != nil {
		return err
	}
	if sameLines(wrote, reads) {
		return nil
	}
	db.job.logf("the tree's rpm and this host's rpm keep their databases in different ways: converting the database")
	if err := db.migrate(ctx, root); err != nil {
		return err
	}
	reads, err = db.inTree(ctx, nil, "rpm", "-qa", "--qf", rpmNames)
	if err == nil && !sameLines(wrote, reads) {
		err = fmt.Errorf("the tree's rpm finds %d packages, but %d are installed", lines(reads), lines(wrote))
	}
	return err
}

const rpmNames = `%{NEVRA}\n`

// migrate writes the database again with the Tree's rpm.
func (db *rpmDB) migrate(ctx context.Context, root *os.Root) error {
	headers, err := db.ask(ctx, filepath.Join(filepath.Dir(db.host), "rpmdb"), "--root", db.job.Root, "--exportdb")
	if err != nil {
		return err
	}
	old, err := layer.Resolve(root, rpmDBPath)
	if err != nil {
		return err
	}
	if err := root.RemoveAll(old); err != nil {
		return err
	}
	if _, err := db.inTree(ctx, nil, "rpmdb", "--initdb"); err != nil {
		return err
	}
	_, err = db.inTree(ctx, bytes.NewReader(headers), "rpmdb", "--importdb")
	return err
}

// onHost runs the host's rpm and returns its output; inTree does the same with a program of the
// Tree, inside the Tree.
func (db *rpmDB) onHost(ctx context.Context, args ...string) ([]byte, error) {
	return db.ask(ctx, append([]string{db.host}, args...)...)
}

func (db *rpmDB) ask(ctx context.Context, argv ...string) ([]byte, error) {
	var out, said bytes.Buffer
	h := sandbox.Host{Dir: db.job.Dir, Env: db.job.Env, Stdout: &out, Stderr: &said}
	err := withOutput(h.Run(ctx, argv), said.Bytes())
	return out.Bytes(), err
}

func (db *rpmDB) inTree(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	var out, said bytes.Buffer
	s := sandbox.Sandbox{Root: db.job.Root, Env: sandbox.Environ(db.job.Env, nil), Stdin: stdin, Stdout: &out, Stderr: &said}
	err := withOutput(s.Run(ctx, argv), said.Bytes())
	return out.Bytes(), err
}

// withOutput adds a program's output to its error.
func withOutput(err error, said []byte) error {
	if err == nil || len(said) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
}

func sameLines(a, b []byte) bool {
	sorted := func(text []byte) []string { return slices.Sorted(strings.Lines(string(text))) }
	return slices.Equal(sorted(a), sorted(b))
}

func lines(text []byte) int { return bytes.Count(text, []byte("\n")) }

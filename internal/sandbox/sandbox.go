package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"netroot/internal/recipe"
)

// DefaultUmask is the umask of commands whose Umask is not given; the package comment says why it is this one.
const DefaultUmask os.FileMode = 0o022

// DefaultGrace is how long a command may take to end after SIGTERM before SIGKILL ends it.
const DefaultGrace = 5 * time.Second

// Bind is a file or directory of the host shown at a place inside the Tree for the time of the run.
type Bind struct {
	Source   string // on the host; symbolic links are followed
	Target   string // absolute, inside the Tree; it must exist there
	ReadOnly bool
}

// ParseBind reads "SRC:DST" or "SRC:DST:ro"; ":rw" may be said, and is the rule. "SRC" alone is shown under its own
// name.
func ParseBind(text string) (Bind, error) {
	parts := strings.Split(text, ":")
	b := Bind{Source: parts[0], Target: parts[0]}
	if len(parts) > 1 {
		b.Target = parts[1]
	}
	ok := len(parts) <= 3 && b.Source != "" && filepath.IsAbs(b.Target)
	if len(parts) == 3 {
		b.ReadOnly = parts[2] == "ro"
		ok = ok && (b.ReadOnly || parts[2] == "rw")
	}
	if !ok {
		return Bind{}, fmt.Errorf("%q is no bind: write SRC:DST or SRC:DST:ro, DST being an absolute path in the tree", text)
	}
	return b, nil
}

// Sandbox runs commands inside the Tree at Root. It needs root. The zero values of all fields but Root are useful. A
// Sandbox may run several commands, one after another: two at a time would fight over the Tree's resolv.conf.
type Sandbox struct {
	Root  string // the Tree's directory
	Name  string // of the command, for messages; empty means argv[0]'s, or the section's
	Binds []Bind
	Env   []string    // the command's whole environment; nil means Environ(os.Environ(), nil)
	Dir   string      // working directory inside the Tree; empty means /
	Umask os.FileMode // permission bits withheld from new files; 0 means DefaultUmask
	Grace time.Duration

	// Through is put before every command: a program that in the end runs its arguments, for example a shell that sets
	// up an environment first.
	Through []string

	// ReadOnly lets the command write to /dev, /tmp, /run and /var/tmp (empty, in memory) and to writable binds, and
	// nowhere else.
	ReadOnly bool

	// NoSync has fsync(2) and its kin succeed at once. The caller has the Tree written to disk in the end, if it wants it
	// there. It is kept where the kernel can: see nosync.go.
	NoSync bool

	// Stdin nil means /dev/null, and a process group of its own, so that a terminal's Ctrl-C reaches only the caller,
	// which cancels ctx. Given, as for a shell, the command stays in the caller's process group and gets Ctrl-C itself:
	// the package comment says what that asks of the caller.
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil means discard
}

// Run runs argv inside the Tree; argv[0] without a slash is looked up in the environment's PATH, inside the Tree.
//
// A command that fails gives an *ExitError. When ctx ends, every process inside gets SIGTERM, and SIGKILL after Grace;
// Run then returns an error that wraps ctx.Err(). On return no process and no mount of the run is left.
func (s *Sandbox) Run(ctx context.Context, argv []string) error {
	if len(argv) == 0 {
		return errors.New("sandbox: no command given")
	}
	return s.run(ctx, order{Name: filepath.Base(argv[0]), Argv: argv})
}

// RunScript runs a section's script (%post and its kin) inside the Tree; name is the section's, for messages: "%post".
// Its Shell runs it. The script lies on the private /dev and is named after the section, so that an interpreter's
// messages tell which section they speak of.
func (s *Sandbox) RunScript(ctx context.Context, script recipe.Script, name string) error {
	file := "/dev/" + scriptName(name)
	return s.run(ctx, order{Name: name, Argv: append(script.Shell(), file), Script: &scriptFile{file, script.Body}})
}

func (s *Sandbox) run(ctx context.Context, o order) error {
	root, err := treeRoot(s.Root)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Name, err)
	}
	if s.Name != "" {
		o.Name = s.Name
	}
	o.Argv = append(slices.Clone(s.Through), o.Argv...)
	o.Root, o.Binds, o.Env, o.Dir, o.ReadOnly = root, s.Binds, s.Env, s.Dir, s.ReadOnly
	if o.Env == nil {
		o.Env = Environ(os.Environ(), nil)
	}
	o.Umask, o.Grace, o.NoSync = s.Umask, s.Grace, s.NoSync
	return launch(ctx, o, s.Stdin, s.Stdout, s.Stderr)
}

// treeRoot returns the Tree's real path, and refuses what cannot be one.
func treeRoot(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("no tree given")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	root, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return "", err
	}
	fi, err := os.Stat(root)
	switch {
	case err != nil:
		return "", err
	case !fi.IsDir():
		return "", fmt.Errorf("%s is not a directory", dir)
	case root == "/":
		return "", errors.New("the tree is /, the running system itself: give a tree of its own")
	}
	return root, nil
}

// Host runs commands on the host itself: %pre and %setup, and the tools that make a Tree's first files. The command
// sees the host's file systems, but has mount and pid namespaces of its own: a mount it forgets and a process it leaves
// behind end with it. Mounts that the host makes meanwhile show up inside (propagation slave), never the other way.
type Host struct {
	Dir   string      // working directory; empty means the caller's
	Env   []string    // nil means the caller's
	Umask os.FileMode // 0 means DefaultUmask
	Grace time.Duration

	NoSync bool // as in Sandbox

	Stdin          io.Reader // as in Sandbox
	Stdout, Stderr io.Writer
}

// Run runs argv on the host; errors and cancellation are as with Sandbox.Run.
func (h *Host) Run(ctx context.Context, argv []string) error {
	if len(argv) == 0 {
		return errors.New("sandbox: no command given")
	}
	return h.run(ctx, order{Name: filepath.Base(argv[0]), Argv: argv})
}

// RunScript runs a section's script (%pre, %setup) on the host, as `/bin/sh -ex [args] FILE`. The script lies in the
// directory for temporary files (TMPDIR, /tmp) while it runs, under a name that nobody can foresee.
func (h *Host) RunScript(ctx context.Context, script recipe.Script, name string) error {
	file := filepath.Join(os.TempDir(), "netroot-"+rand.Text()+scriptName(name))
	return h.run(ctx, order{Name: name, Argv: append(script.Shell(), file), Script: &scriptFile{file, script.Body}})
}

func (h *Host) run(ctx context.Context, o order) error {
	o.Env, o.Dir, o.Umask, o.Grace, o.NoSync = h.Env, h.Dir, h.Umask, h.Grace, h.NoSync
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if o.Dir == "" {
		dir, err := os.Getwd()
		if err != nil {
			return fmt.Errorf("%s: %w", o.Name, err)
		}
		o.Dir = dir
	}
	return launch(ctx, o, h.Stdin, h.Stdout, h.Stderr)
}

// ExitError says that the command ran and failed.
type ExitError struct {
	Name   string         // the section ("%post") or the command's name
	Code   int            // exit status, 0..255; -1 when a signal ended it
	Signal syscall.Signal // the signal that ended it, or 0
}

func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s: killed by signal %d (%s)", e.Name, int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("%s: exit status %d", e.Name, e.Code)
}

// scriptName makes a file's name of a section's: "%post" is run from .post.script, as Apptainer calls it.
func scriptName(section string) string {
	return "." + strings.TrimLeft(strings.ReplaceAll(section, "/", "-"), "%.") + ".script"
}

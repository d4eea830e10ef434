package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/recipe"
)

// DefaultUmask is the umask of commands whose Umask is not set. The package comment gives the
// reason.
const DefaultUmask os.FileMode = 0o022

// DefaultGrace is the time that a command has to end after SIGTERM, before SIGKILL.
const DefaultGrace = 5 * time.Second

// Bind is a bind mount: it shows a file or directory of the host inside the Tree during the run.
type Bind struct {
	Source   string // on the host; symbolic links are followed
	Target   string // absolute path inside the Tree, which must exist
	ReadOnly bool
}

// ParseBind parses "SRC:DST", "SRC:DST:ro" or "SRC:DST:rw"; writable is the default. "SRC" alone
// stands for "SRC:SRC".
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
		return Bind{}, fmt.Errorf("%q is not a bind: use SRC:DST or SRC:DST:ro, where DST is an absolute path in the tree", text)
	}
	return b, nil
}

// Sandbox runs commands inside the Tree at Root. It requires root privileges. All fields except
// Root have useful zero values. A Sandbox may run several commands, but only one at a time, because
// every run changes the Tree's resolv.conf.
type Sandbox struct {
	Root  string // directory of the Tree
	Name  string // name of the command for messages; empty: argv[0], or the section
	Binds []Bind
	Env   []string    // complete environment of the command; nil: Environ(os.Environ(), nil)
	Dir   string      // working directory inside the Tree; empty: /
	Umask os.FileMode // permission bits withheld from new files; 0: DefaultUmask
	Grace time.Duration

	// Through is put before every command. It is a program that finally runs its arguments, for
	// example a shell that first sets up an environment.
	Through []string

	// With ReadOnly, the command can write only to /dev, /tmp, /run and /var/tmp (empty, in
	// memory) and to writable binds.
	ReadOnly bool

	// With NoSync, fsync(2) and similar system calls succeed at once. The caller must sync the
	// Tree at the end, if it needs that. Not every kernel supports this: see nosync.go.
	NoSync bool

	// A nil Stdin means /dev/null and a new process group, so that a terminal's Ctrl-C reaches
	// only the caller, which cancels ctx. With a Stdin, as for a shell, the command stays in
	// the caller's process group and receives Ctrl-C itself; the package comment says what the
	// caller must do then.
	Stdin          io.Reader
	Stdout, Stderr io.Writer // nil discards the output
}

// Run runs argv inside the Tree. If argv[0] has no slash, it is looked up inside the Tree in the
// PATH of the environment.
//
// If the command fails, the error is an *ExitError. When ctx ends, every process inside gets
// SIGTERM, and SIGKILL after Grace; Run then returns an error that wraps ctx.Err(). When Run
// returns, no process and no mount of the run is left.
func (s *Sandbox) Run(ctx context.Context, argv []string) error {
	if len(argv) == 0 {
		return errors.New("sandbox: no command given")
	}
	return s.run(ctx, order{Name: filepath.Base(argv[0]), Argv: argv})
}

// RunScript runs the script of a section (such as %post) inside the Tree with the script's Shell.
// name is the section's name for messages: "%post". The script is a file on the private /dev, named
// after the section, so that the messages of an interpreter name the section.
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

// treeRoot returns the real path of the Tree. It refuses a directory that cannot be a Tree.
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
		return "", errors.New("the tree is /, the running system itself: choose another directory")
	}
	return root, nil
}

// Host runs commands on the host itself: %pre and %setup, and the tools that make a Tree's first
// files. The command sees the host's file systems, but has its own mount and pid namespaces, so
// that mounts and processes that it leaves end with it. Mounts that the host makes during the run
// appear inside (propagation slave), but not the reverse.
type Host struct {
	Dir   string      // working directory; empty: the caller's
	Env   []string    // nil: the caller's
	Umask os.FileMode // 0: DefaultUmask
	Grace time.Duration

	NoSync bool // as in Sandbox

	Stdin          io.Reader // as in Sandbox
	Stdout, Stderr io.Writer
}

// Run runs argv on the host. Errors and cancellation are the same as for Sandbox.Run.
func (h *Host) Run(ctx context.Context, argv []string) error {
	if len(argv) == 0 {
		return errors.New("sandbox: no command given")
	}
	return h.run(ctx, order{Name: filepath.Base(argv[0]), Argv: argv})
}

// RunScript runs the script of a section (%pre, %setup) on the host, as `/bin/sh -ex [args] FILE`.
// During the run the script is in the directory for temporary files (TMPDIR, /tmp) under an
// unpredictable name.
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

// ExitError is the error of a command that ran and failed.
type ExitError struct {
	Name   string         // section ("%post") or name of the command
	Code   int            // exit status, 0 to 255; -1 if a signal ended the command
	Signal syscall.Signal // signal that ended the command, or 0
}

func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("%s: killed by %s", e.Name, cmp.Or(unix.SignalName(e.Signal), "signal "+strconv.Itoa(int(e.Signal))))
	}
	return fmt.Sprintf("%s: exit status %d", e.Name, e.Code)
}

// scriptName returns the file name for the script of a section: ".post.script" for "%post", as in
// Apptainer.
func scriptName(section string) string {
	return "." + strings.TrimLeft(strings.ReplaceAll(section, "/", "-"), "%.") + ".script"
}

// Package bootstrap makes the first files of a Tree. It has one agent for each value of a recipe's
// Bootstrap key, and one file for each agent. The agent of a distribution runs that distribution's
// tool on the host, in namespaces (package sandbox), so that a cancelled or killed build leaves
// neither processes nor mounts. An agent for images fetches and unpacks them itself, so that the
// names, links and whiteouts of an image never reach outside the Tree.
//
// The package does not run the recipe's sections and does not copy %files. When an agent fails it
// removes nothing: the build that owns the directory of the Tree removes it.
package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"netroot/internal/nearest"
	"netroot/internal/recipe"
	"netroot/internal/sandbox"
)

// Job describes the work of an agent.
type Job struct {
	Root  string        // directory of the Tree: it exists and contains only the files of %pre
	Stage *recipe.Stage // its header says what to install
	Dir   string        // caller's working directory: relative paths in the header start here
	Log   io.Writer     // receives the tool's output in whole lines; nil discards it
	Env   []string      // environment of the tool, including INCLUDE and GPG; nil: the caller's
}

// Agent fills Job.Root. The error wraps ctx.Err() when ctx ends.
type Agent func(ctx context.Context, j Job) error

// For returns the agent for a value of the Bootstrap key. For an agent of Apptainer that netroot
// does not have, the error says what to use instead; for any other name, it lists the known agents.
func For(name string) (Agent, error) {
	agents := map[string]Agent{
		"arch":           arch,
		"busybox":        busybox,
		"debootstrap":    debootstrap,
		"dnf":            yum,
		"docker":         docker,
		"docker-archive": dockerArchive,
		"localimage":     localImage,
		"oci":            ociLayout,
		"oci-archive":    ociArchive,
		"oras":           oras,
		"scratch":        scratch,
		"yum":            yum,
		"zypper":         zypper,
	}
	lower := strings.ToLower(name)
	a, ok := agents[lower]
	if !ok {
		if advice := alternative(lower); advice != "" {
			return nil, fmt.Errorf("the bootstrap agent %s is not built in: %s", lower, advice)
		}
		known := slices.Sorted(maps.Keys(agents))
		return nil, fmt.Errorf("unknown bootstrap agent %q: use one of %s%s", name, strings.Join(known, ", "), nearest.Hint(name, known))
	}
	return func(ctx context.Context, j Job) error {
		if err := a(ctx, j); err != nil {
			return fmt.Errorf("bootstrap %s: %w", lower, err)
		}
		return baseDirs(j.Root)
	}, nil
}

// alternative returns advice on how to replace an agent that needs a daemon, a service that no
// longer exists, or a builder.
func alternative(agent string) string {
	switch agent {
	case "docker-daemon":
		return "write the image into a file with `docker save -o FILE.tar IMAGE`, then `Bootstrap: docker-archive` and `From: FILE.tar`"
	case "library":
		return "fetch the image with `apptainer pull FILE.sif library://IMAGE`, then `Bootstrap: localimage` and `From: FILE.sif`"
	case "shub":
		return "Singularity Hub no longer exists: use a copy of the image as a file with `Bootstrap: localimage`, " +
			"or one from a registry with `Bootstrap: docker`"
	case "buildkit", "dockerfile":
		return "build the image with `docker buildx build --output type=oci,dest=FILE.tar .` or `podman build` and " +
			"`podman save --format oci-archive`, then `Bootstrap: oci-archive` and `From: FILE.tar`"
	}
	return ""
}

// baseDirs makes the directories that every root file system has, unless the agent has made them.
// An existing entry, even a symbolic link, stays unchanged.
func baseDirs(root string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{
		{"dev", 0o755},
		{"etc", 0o755},
		{"proc", 0o555},
		{"root", 0o700},
		{"run", 0o755},
		{"sys", 0o555},
		{"tmp", 0o777 | os.ModeSticky},
		{"var", 0o755},
		{"var/tmp", 0o777 | os.ModeSticky},
	} {
		if _, err := r.Lstat(d.name); err == nil {
			continue
		}
		if err := r.Mkdir(d.name, 0o755); err != nil {
			return fmt.Errorf("make /%s in the tree: %w", d.name, err)
		}
		if err := r.Chmod(d.name, d.mode); err != nil {
			return fmt.Errorf("make /%s in the tree: %w", d.name, err)
		}
	}
	return nil
}

func (j Job) environ() []string {
	if j.Env == nil {
		return os.Environ()
	}
	return j.Env
}

// getenv returns a variable of the job's environment. As in execve(2), the last value counts.
func (j Job) getenv(name string) string {
	var value string
	for _, kv := range j.environ() {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

func (j Job) header(key string) string {
	v, _ := j.Stage.Header.Get(key)
	return strings.TrimSpace(v)
}

// include returns the packages of the header's Include and of the environment variable INCLUDE,
// which are separated by blanks or commas.
func (j Job) include() ([]string, error) {
	names := strings.FieldsFunc(j.header("Include")+" "+j.getenv("INCLUDE"), func(r rune) bool {
		return strings.ContainsRune(", \t\r\n", r)
	})
	for _, n := range names {
		if strings.HasPrefix(n, "-") {
			return nil, fmt.Errorf("Include: %q is not a package name", n)
		}
	}
	return names, nil
}

// logf writes a line of the agent itself into the log.
func (j Job) logf(format string, args ...any) {
	if j.Log != nil {
		fmt.Fprintf(j.Log, format+"\n", args...)
	}
}

// tool is a program of the host that an agent requires, and the packages that contain it.
type tool struct{ name, debian, fedora string }

// find returns the path of the first tool that the host has.
func find(tools ...tool) (string, error) {
	var names, hints []string
	for _, t := range tools {
		if p, err := exec.LookPath(t.name); err == nil {
			return p, nil
		}
		names = append(names, t.name)
	}
	for _, t := range tools {
		if t.debian != "" {
			hints = append(hints, "on Debian and Ubuntu `apt install "+t.debian+"`")
			break
		}
	}
	for _, t := range tools {
		if t.fedora != "" {
			hints = append(hints, "on Fedora and EL `dnf install "+t.fedora+"`")
			break
		}
	}
	return "", fmt.Errorf("this host has no %s: install it, %s", strings.Join(names, " or "), strings.Join(hints, ", "))
}

// run runs a tool and sends its output to the log. The error contains the last lines of that
// output.
func (j Job) run(ctx context.Context, argv []string, env ...string) error {
	return j.logged(func(out io.Writer) error {
		h := sandbox.Host{Dir: j.Dir, Env: append(slices.Clone(j.environ()), env...), NoSync: true, Stdout: out, Stderr: out}
		return h.Run(ctx, argv)
	})
}

// runInside runs a program of the Tree inside the Tree.
func (j Job) runInside(ctx context.Context, argv ...string) error {
	return j.logged(func(out io.Writer) error {
		s := sandbox.Sandbox{Root: j.Root, Env: sandbox.Environ(j.environ(), nil), NoSync: true, Stdout: out, Stderr: out}
		return s.Run(ctx, argv)
	})
}

func (j Job) logged(run func(out io.Writer) error) error {
	out := &lineLog{to: j.Log}
	err := run(out)
	out.flush()
	if exit, ok := errors.AsType[*sandbox.ExitError](err); ok && len(out.last) > 0 {
		return fmt.Errorf("%w:\n\t%s", exit, strings.Join(out.lastWords(), "\n\t"))
	}
	return err
}

// lineLog passes whole lines on, and keeps the last ones.
type lineLog struct {
	to   io.Writer
	part []byte
	last []string
	err  []string // the last lines that look like an error
}

const keptLines = 5

func (l *lineLog) Write(p []byte) (int, error) {
	l.part = append(l.part, p...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			return len(p), nil
		}
		if err := l.line(l.part[:i+1]); err != nil {
			return 0, err
		}
		l.part = l.part[i+1:]
	}
}

func (l *lineLog) flush() {
	if len(l.part) > 0 {
		// The tool has ended: its exit status is the better error.
		_ = l.line(append(l.part, '\n'))
		l.part = nil
	}
}

func (l *lineLog) line(line []byte) error {
	if s := strings.TrimSpace(string(line)); s != "" {
		l.last = keep(l.last, s)
		for _, p := range []string{"E:", "E: ", "Error", "error:", "ERROR", "cp: "} {
			if strings.HasPrefix(s, p) {
				l.err = keep(l.err, s)
				break
			}
		}
	}
	if l.to == nil {
		return nil
	}
	_, err := l.to.Write(line)
	return err
}

func (l *lineLog) lastWords() []string {
	if len(l.err) > 0 {
		return l.err
	}
	return l.last
}

func keep(lines []string, s string) []string {
	lines = append(lines, s)
	return lines[max(0, len(lines)-keptLines):]
}

// absolute makes a path of the header absolute.
func (j Job) absolute(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(j.Dir, path)
}

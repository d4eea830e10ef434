package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/internal/api"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// netroot is this test binary as the program: testscript.Main looks at its name.
func netroot(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"netroot"}, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NETROOT_INIT="+filepath.Join(dir, "busybox"), "TERM=dumb", api.RunDirVariable+"="+dir)
	return cmd
}

// tinySite is a directory with a configuration for a label "tiny", and what its
// recipe needs.
func tinySite(t *testing.T, recipe string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces and mounts")
	}
	box, err := exec.LookPath("busybox")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("busybox (package busybox-static) is missing")
	} else if err != nil {
		t.Skip("needs busybox (package busybox-static)")
	}
	dir := t.TempDir()
	data, err := os.ReadFile(box)
	must(t, err, os.WriteFile(filepath.Join(dir, "busybox"), data, 0o755))
	for name, text := range map[string]string{
		"netroot.yaml": "state: state\nlabels:\n  tiny:\n    recipe: tiny.def\n",
		"tiny.def":     recipe,
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// tinyTree gives the label a tree that nothing has built.
func tinyTree(t *testing.T, dir string) string {
	t.Helper()
	tree := filepath.Join(dir, "state/trees/tiny")
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc", "root", ".singularity.d/env"} {
		must(t, os.MkdirAll(filepath.Join(tree, d), 0o755))
	}
	data, err := os.ReadFile(filepath.Join(dir, "busybox"))
	must(t, err, os.WriteFile(filepath.Join(tree, "bin/busybox"), data, 0o755))
	for _, name := range []string{"sh", "sleep", "stty", "kill", "echo"} {
		must(t, os.Symlink("busybox", filepath.Join(tree, "bin", name)))
	}
	return tree
}

// terminal is a pseudo-terminal (pts(4)) and what was printed on it.
type terminal struct {
	master, tty *os.File

	mu   sync.Mutex
	text bytes.Buffer
	seen int // how far expect has read
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	term := &terminal{master: master, tty: tty}
	t.Cleanup(func() { tty.Close(); master.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			term.mu.Lock()
			term.text.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return term
}

func (term *terminal) send(t *testing.T, keys string) {
	t.Helper()
	_, err := term.master.WriteString(keys)
	must(t, err)
}

// expect waits until the text comes, after what was expected before.
func (term *terminal) expect(t *testing.T, want string) {
	t.Helper()
	poll(t, fmt.Sprintf("%q on the terminal", want), func() bool {
		term.mu.Lock()
		defer term.mu.Unlock()
		at := strings.Index(term.text.String()[term.seen:], want)
		if at >= 0 {
			term.seen += at + len(want)
		}
		return at >= 0
	}, func() string {
		term.mu.Lock()
		defer term.mu.Unlock()
		return term.text.String()
	})
}

// poll waits for a fact.
func poll(t *testing.T, what string, is func() bool, otherwise func() string) {
	t.Helper()
	for tick, end := time.Tick(5*time.Millisecond), time.After(30*time.Second); !is(); {
		select {
		case <-tick:
		case <-end:
			t.Fatalf("waited for %s in vain; there is\n%s", what, otherwise())
		}
	}
}

func processesWith(arg string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		var pid int
		if text, _ := os.ReadFile(p); strings.Contains(string(text), "\x00"+arg+"\x00") {
			if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func running(t *testing.T, arg string, n int) {
	t.Helper()
	poll(t, fmt.Sprintf("%d processes with %s", n, arg), func() bool { return len(processesWith(arg)) == n },
		func() string { return fmt.Sprint(processesWith(arg)) })
}

// TestShellOnTerminal types at a shell: keys reach what is in the foreground in
// there, jobs stop and go on, and the terminal is the caller's again in the end.
func TestShellOnTerminal(t *testing.T) {
	dir := tinySite(t, "")
	tree := tinyTree(t, dir)
	term := openTerminal(t)
	before, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	must(t, err)
	cmd := netroot(t, dir, "shell", "tiny")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = term.tty, term.tty, term.tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	term.send(t, "echo my=$((6*7))\n")
	term.expect(t, "my=42")
	foreground, err := unix.IoctlGetInt(int(term.master.Fd()), unix.TIOCGPGRP)
	if must(t, err); foreground == cmd.Process.Pid {
		t.Error("the shell inside has no process group of its own: no job control")
	}

	term.send(t, "sleep 607.25\n")
	running(t, "607.25", 1)
	term.send(t, "\x03")
	running(t, "607.25", 0)
	term.send(t, "echo after=$?\n")
	term.expect(t, "after=130")

	term.send(t, "sleep 607.25\n")
	running(t, "607.25", 1)
	term.send(t, "\x1a")
	term.expect(t, "Stopped")
	term.send(t, "fg\n")
	poll(t, "the job in the foreground", func() bool {
		foreground, err := unix.IoctlGetInt(int(term.master.Fd()), unix.TIOCGPGRP)
		return err == nil && slices.Contains(processesWith("607.25"), foreground)
	}, func() string { return "another one" })
	term.send(t, "\x03")
	running(t, "607.25", 0)

	term.send(t, "\x1c\x03") // with nothing in the foreground but the shell
	term.send(t, "echo x > /etc/made; echo sti''ll\n")
	term.expect(t, "still")
	term.send(t, "stty -echo -icanon; exit 5\n")
	err = <-ended
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 5 {
		t.Errorf("ended with %v, want status 5", err)
	}
	if text, err := os.ReadFile(filepath.Join(tree, "etc/made")); err != nil || string(text) != "x\n" {
		t.Errorf("the tree's file: %q, %v", text, err)
	}
	after, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	if d := cmp.Diff(before, after); d != "" || err != nil {
		t.Errorf("%v: the terminal is another one (-before +after):\n%s", err, d)
	}
}

// TestExecOnTerminal: a command without job control is interrupted by itself;
// netroot goes on to say what has become of the tree.
func TestExecOnTerminal(t *testing.T) {
	dir := tinySite(t, "")
	tinyTree(t, dir)
	term := openTerminal(t)
	cmd := netroot(t, dir, "exec", "tiny", "--", "sh", "-c", "trap 'echo mine; exit 4' INT; echo ready; sleep 608.25")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = term.tty, term.tty, term.tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must(t, cmd.Start())
	term.expect(t, "ready")
	running(t, "608.25", 1)
	term.send(t, "\x03")
	term.expect(t, "mine")
	term.expect(t, "netroot: the build of the tree of tiny left no record")
	if err := cmd.Wait(); err == nil || err.Error() != "exit status 4" {
		t.Errorf("ended with %v", err)
	}
	running(t, "608.25", 0)

	// Nobody at the keys: a request to end goes to all of it.
	cmd = netroot(t, dir, "exec", "tiny", "--", "sleep", "609.25")
	must(t, cmd.Start())
	running(t, "609.25", 2) // the sleep and the netroot that names it
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err == nil || err.Error() != "exit status 143" {
		t.Errorf("ended with %v", err)
	}
	running(t, "609.25", 0)
}

// TestBuildKilled kills a build outright, in the tree and on the host: nothing
// of it runs on, no mount is left, the old tree is as it was, and the next build
// removes what lies about.
func TestBuildKilled(t *testing.T) {
	for _, section := range []string{"%setup", "%post"} {
		t.Run(section, func(t *testing.T) {
			dir := tinySite(t, `Bootstrap: localimage
From: base
`+section+`
echo x > ${SINGULARITY_ROOTFS}/made
"${SINGULARITY_ROOTFS}/bin/busybox" setsid "${SINGULARITY_ROOTFS}/bin/sleep" 610.25 &
"${SINGULARITY_ROOTFS}/bin/sleep" 610.25
`)
			tree := tinyTree(t, dir)
			must(t, exec.Command("cp", "-a", tree, filepath.Join(dir, "base")).Run())
			must(t, os.WriteFile(filepath.Join(tree, "etc/old"), []byte("old"), 0o600))
			before, mounts := modes(t, tree), mountinfo(t)
			cmd := netroot(t, dir, "build", "tiny")
			must(t, cmd.Start())
			running(t, "610.25", 2)
			must(t, cmd.Process.Kill())
			if err := cmd.Wait(); err == nil {
				t.Error("it ended well")
			}
			running(t, "610.25", 0)
			poll(t, "an end of the sandbox", func() bool { return mountinfo(t) == mounts }, func() string { return mountinfo(t) })
			if d := cmp.Diff(before, modes(t, tree)); d != "" {
				t.Errorf("the old tree (-before +after):\n%s", d)
			}
			work := filepath.Join(dir, "state/trees/.build-tiny-*")
			if left, _ := filepath.Glob(work); len(left) != 1 {
				t.Errorf("left over: %v", left)
			}
			must(t, os.WriteFile(filepath.Join(dir, "tiny.def"), []byte("Bootstrap: localimage\nFrom: none\n"), 0o644))
			out, err := netroot(t, dir, "build", "tiny").CombinedOutput()
			if err == nil || !strings.Contains(string(out), "none: no such file") {
				t.Errorf("the next build: %v, %s", err, out)
			}
			if left, _ := filepath.Glob(work); len(left) != 0 {
				t.Errorf("left over after another build: %v", left)
			}
		})
	}
}

func mountinfo(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return string(text)
}

// modes lists the files below dir with their modes and sizes.
func modes(t *testing.T, dir string) (list []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		must(t, err)
		fi, err := d.Info()
		must(t, err)
		list = append(list, fmt.Sprint(fi.Mode(), fi.Size(), name))
		return nil
	}))
	slices.Sort(list)
	return list
}

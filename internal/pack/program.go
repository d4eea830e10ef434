package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Result describes a packed image.
type Result struct {
	Size int64 // size of the image in bytes
	// Warnings are messages of the packer, each once, for example about attributes that the
	// format cannot store.
	Warnings []string
}

// program is an external packer.
type program struct {
	name    string // name of the executable, "mksquashfs"
	install string // advice if it is missing
}

// checkInstalled returns an error that says what to install if the program is missing.
func (p program) checkInstalled() error {
	if _, err := exec.LookPath(p.name); err != nil {
		return fmt.Errorf("%s is not installed: %s", p.name, p.install)
	}
	return nil
}

// writeWhole makes write pack tree into a file beside out, and renames the file to out when it is
// complete. It does not sync the file: the store syncs it when it takes it.
func writeWhole(tree, out string, write func(file string) (warnings []string, err error)) (Result, error) {
	if info, err := os.Stat(tree); err != nil {
		return Result{}, err
	} else if !info.IsDir() {
		return Result{}, errors.New("not a directory")
	}
	pending, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-*")
	if err != nil {
		return Result{}, err
	}
	defer os.Remove(pending.Name()) // has no effect once the file is at out
	defer pending.Close()
	warnings, err := write(pending.Name())
	if err != nil {
		return Result{}, err
	}
	info, err := pending.Stat() // the packer writes into the same file
	if err != nil {
		return Result{}, err
	}
	if err := os.Rename(pending.Name(), out); err != nil {
		return Result{}, err
	}
	return Result{Size: info.Size(), Warnings: warnings}, nil
}

// run runs the program, which writes file, and returns the lines of its standard error, each once,
// also when the program fails. A full disk has its own error.
func (p program) run(ctx context.Context, file string, args []string, stdout io.Writer) ([]string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.name, args...)
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// The child is killed when this process dies in any way. The signal is sent when the thread
	// that started the child ends (prctl(2)).
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	lines := messages(stderr.String())
	switch {
	case ctx.Err() != nil:
		return lines, context.Cause(ctx)
	case err != nil && strings.Contains(stderr.String(), "No space left on device"):
		return nil, fmt.Errorf("no space left in %s: free some space, or choose another directory for the image", filepath.Dir(file))
	case err != nil:
		return lines, fmt.Errorf("%s: %w", p.name, err)
	}
	return lines, nil
}

// messages returns the lines of text that are not empty, each once.
func messages(text string) []string {
	var lines []string
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

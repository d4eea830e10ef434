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

// Result is what a packing came to.
type Result struct {
	Size     int64    // of the image in bytes
	Warnings []string // what the packer said, each message once: attributes that the format cannot hold, for example
}

// program is a foreign packer.
type program struct {
	name    string // of the executable, "mksquashfs"
	install string // what to do without it
}

// look says what to install when the program is not there.
func (p program) look() error {
	if _, err := exec.LookPath(p.name); err != nil {
		return fmt.Errorf("%s is not installed: %s", p.name, p.install)
	}
	return nil
}

// whole has write make an image of tree in a file beside out, and puts it at out when it is complete. To have it on disk,
// too, is the caller's: the store that takes it syncs it in any case.
func whole(tree, out string, write func(file string) (warnings []string, err error)) (Result, error) {
	if info, err := os.Stat(tree); err != nil {
		return Result{}, err
	} else if !info.IsDir() {
		return Result{}, errors.New("not a directory")
	}
	pending, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-*")
	if err != nil {
		return Result{}, err
	}
	defer os.Remove(pending.Name()) // nothing, once it is at out
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

// run runs the program, which writes file, and gives the lines of its standard error, each once, also when it fails.
// A full disk is an error of its own.
func (p program) run(ctx context.Context, file string, args []string, stdout io.Writer) ([]string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.name, args...)
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// Killed with us, whatever kills us. The signal comes when the thread ends that started the child (prctl(2)).
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	lines := messages(stderr.String())
	switch {
	case ctx.Err() != nil:
		return lines, context.Cause(ctx)
	case err != nil && strings.Contains(stderr.String(), "No space left on device"):
		return nil, fmt.Errorf("no space left in %s: free some, or put the image elsewhere", filepath.Dir(file))
	case err != nil:
		return lines, fmt.Errorf("%s: %w", p.name, err)
	}
	return lines, nil
}

// messages gives the lines of text that say something, each once.
func messages(text string) []string {
	var lines []string
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

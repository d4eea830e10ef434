package build

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// tailLines is the number of lines that are shown of a failing part's output.
const tailLines = 40

// buildLog stores the complete output of a build, and keeps the last lines of the current part.
type buildLog struct {
	mu   sync.Mutex
	file *os.File
	last []byte
	err  error // the first of writing
}

func newLog(dir, label string) (*buildLog, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the log directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, label+".log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &buildLog{file: f}, nil
}

func (l *buildLog) Name() string { return l.file.Name() }

func (l *buildLog) Close() error { return l.file.Close() }

// Write never fails: a program whose output it is would be killed by SIGPIPE, with that as its only
// error.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	const keep = 64 << 10
	l.last = append(l.last, p...)
	if len(l.last) > 2*keep {
		l.last = append([]byte(nil), l.last[len(l.last)-keep:]...)
	}
	if _, err := l.file.Write(p); err != nil && l.err == nil {
		l.err = fmt.Errorf("the log is not complete: %w", err)
	}
	return len(p), nil
}

// failed is why the log is not complete, if it is not.
func (l *buildLog) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// full reports whether the disk of the log is full.
func (l *buildLog) full() bool {
	err := l.failed()
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// mark begins a new part.
func (l *buildLog) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = nil
}

// tail returns the last lines of the current part.
func (l *buildLog) tail() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimRight(string(bytes.ToValidUTF8(l.last, []byte("?"))), "\n")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-tailLines):]
}

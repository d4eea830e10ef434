package build

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// tailLines is the number of lines that are shown of a failing part's output.
const tailLines = 40

// buildLog stores the complete output of a build, and keeps the last lines of the current part.
type buildLog struct {
	mu   sync.Mutex
	file *os.File
	last []byte
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

func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	const keep = 64 << 10
	l.last = append(l.last, p...)
	if len(l.last) > 2*keep {
		l.last = append([]byte(nil), l.last[len(l.last)-keep:]...)
	}
	return l.file.Write(p)
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

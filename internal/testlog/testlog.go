// Package testlog collects the log output of a server's goroutines for a test.
package testlog

import (
	"strings"
	"sync"
)

// Buffer keeps everything that is written to it. Several goroutines may write and read at once. The
// zero value is empty.
type Buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns everything that was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

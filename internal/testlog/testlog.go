// Package testlog keeps for a test what the goroutines of a server write.
package testlog

import (
	"strings"
	"sync"
)

// Buffer keeps what is written to it, for as many writers and readers at once as there are. Its zero value is empty.
type Buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

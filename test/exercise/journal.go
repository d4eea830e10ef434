package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// journal keeps the last operations, for finding the cause of an error.
type journal struct {
	mu   sync.Mutex
	who  string
	n    int // number of operations
	last [40]string
	log  io.Writer
}

// note records the beginning of an operation.
func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line := fmt.Sprintf("%s%d: %s", j.who, j.n, fmt.Sprintf(format, args...))
	j.last[j.n%len(j.last)] = line
	j.n++
	fmt.Fprintln(j.log, line)
}

// failure returns err with the operations that led to it.
func (j *journal) failure(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for i := max(0, j.n-len(j.last)); i < j.n; i++ {
		fmt.Fprintf(&b, "\n  %s", j.last[i%len(j.last)])
	}
	return fmt.Errorf("%w\nthe last operations:%s", err, b.String())
}

// workplace makes a new directory in dir. end removes it if there was no error.
func workplace(dir, what string) (name string, end func(*error), err error) {
	name, err = os.MkdirTemp(dir, "exercise-"+what+"-")
	if err != nil {
		return "", nil, err
	}
	return name, func(failed *error) {
		if *failed != nil {
			return
		}
		if os.Geteuid() != 0 { // a user may have removed the access to the own directory
			filepath.WalkDir(name, func(p string, e fs.DirEntry, _ error) error {
				if e.IsDir() {
					return os.Chmod(p, 0o700)
				}
				return nil
			})
		}
		*failed = os.RemoveAll(name)
	}, nil
}

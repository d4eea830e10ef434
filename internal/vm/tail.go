package vm

import (
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
)

// tailBuffer keeps the last bytes written to it.
type tailBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailSize; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return plain(string(t.b))
}

// readTail returns the last n bytes of a file as plain text, or "" if the file is missing.
func readTail(file string, n int64) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > n {
		f.Seek(-n, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return plain(string(b))
}

// control matches the control sequences of a terminal (ECMA-48 section 5.4: CSI, and two-byte
// escapes).
var control = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])")

// plain removes control sequences and colours, so that the text of a console can be part of a
// message.
func plain(s string) string {
	s = control.ReplaceAllString(s, "")
	var lines []string
	for line := range strings.Lines(s) {
		line = strings.TrimRight(line, "\r\n ")
		// If a line was overwritten, for example by a progress counter, only its last state
		// counts.
		if i := strings.LastIndexByte(line, '\r'); i >= 0 {
			line = line[i+1:]
		}
		line = strings.Map(func(r rune) rune {
			if r < ' ' && r != '\t' || r == 0x7f {
				return -1
			}
			return r
		}, line)
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

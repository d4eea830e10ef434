package nbd

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// script is a conversation, one message a line: "S:" from the server, "C:" from the client, in
// tokens that unquote explains; "EOF" is the end of that direction. Lines that begin otherwise are
// for the test.
type script struct {
	file  string
	lines []line
}

type line struct {
	who  string // "S:", "C:", ...
	data []byte // of S: and C:
	eof  bool
	text string // of the others
}

func scripts(t testing.TB, glob string) []script {
	t.Helper()
	files, err := filepath.Glob(glob)
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts match %s: %v", glob, err)
	}
	var all []script
	for _, f := range files {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s := script{file: f}
		for n, text := range strings.Split(strings.TrimSpace(string(src)), "\n") {
			if strings.HasPrefix(text, "#") {
				continue
			}
			l := line{}
			l.who, l.text, _ = strings.Cut(text, " ")
			if l.who == "S:" || l.who == "C:" {
				if l.eof = l.text == "EOF"; !l.eof {
					if l.data, err = unquote(l.text); err != nil {
						t.Fatalf("%s: message %d: %v", f, n+1, err)
					}
				}
			}
			s.lines = append(s.lines, l)
		}
		all = append(all, s)
	}
	return all
}

var token = regexp.MustCompile(`^ *(?:(u16|u32)?("(?:[^"\\]|\\.)*")|([0-9a-f]+)(?:\*([0-9]+))?)`)

// unquote reads tokens: hexadecimal bytes, bytes*count, "text", and text behind its length:
// u32"text".
func unquote(s string) ([]byte, error) {
	var b []byte
	for s != "" {
		m := token.FindStringSubmatch(s)
		if m == nil {
			return nil, fmt.Errorf("no token at %q", s)
		}
		s = s[len(m[0]):]
		if m[3] != "" {
			v, err := hex.DecodeString(m[3])
			if err != nil {
				return nil, err
			}
			n := 1
			if m[4] != "" {
				n, _ = strconv.Atoi(m[4])
			}
			b = append(b, bytes.Repeat(v, n)...)
			continue
		}
		text, err := strconv.Unquote(m[2])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m[2], err)
		}
		switch m[1] {
		case "u16":
			b = be.AppendUint16(b, uint16(len(text)))
		case "u32":
			b = be.AppendUint32(b, uint32(len(text)))
		}
		b = append(b, text...)
	}
	return b, nil
}

// said returns everything that one side says in a script.
func (s script) said(who string) []byte {
	var b []byte
	for _, l := range s.lines {
		if l.who == who {
			b = append(b, l.data...)
		}
	}
	return b
}

// play plays the side me on conn, and fails when the other says anything else than the script.
func (s script) play(t *testing.T, conn net.Conn, me string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	for i, l := range s.lines {
		switch {
		case l.who != "S:" && l.who != "C:":
		case l.who == me && l.eof:
			conn.(interface{ CloseWrite() error }).CloseWrite()
		case l.who == me:
			if _, err := conn.Write(l.data); err != nil {
				t.Fatalf("%s: message %d: %v", s.file, i+1, err)
			}
		case l.eof:
			if n, err := conn.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
				t.Fatalf("%s: message %d: read %d, %v; want the end", s.file, i+1, n, err)
			}
		default:
			got := make([]byte, len(l.data))
			n, err := io.ReadFull(conn, got)
			if !bytes.Equal(got[:n], l.data) {
				t.Fatalf("%s: message %d: %v\n got %x\nwant %x", s.file, i+1, err, got[:n], l.data)
			}
		}
	}
}

// captured returns the bytes of testdata/captured/NAME.hex.
func captured(t testing.TB, file string) []byte {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, digits, _ := strings.Cut(string(src), "\n") // the first line says what it is
	b, err := hex.DecodeString(strings.ReplaceAll(digits, "\n", ""))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return b
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no file matches %s: %v", pattern, err)
	}
	return files
}

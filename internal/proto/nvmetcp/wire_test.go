package nvmetcp

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

// script is a conversation. "C:" begins a message of the host and "S:" one of the server, "C1:" and
// "S1:" on the second connection; what unquote explains follows, in as many lines as it takes;
// "EOF" is the end of that direction.
type script struct {
	file  string
	lines []message
}

type message struct {
	number int // of its line
	server bool
	conn   int
	data   []byte
	eof    bool
}

var opening = regexp.MustCompile(`^([CS])(1?): *(.*)$`)

func scripts(t testing.TB) []script {
	t.Helper()
	var all []script
	for _, file := range glob(t, "testdata/server/*.txt") {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := script{file: file}
		for n, text := range strings.Split(strings.TrimSpace(string(src)), "\n") {
			text, _, _ = strings.Cut(text, "#")
			if m := opening.FindStringSubmatch(text); m != nil {
				s.lines = append(s.lines, message{number: n + 1, server: m[1] == "S", conn: len(m[2])})
				text = m[3]
			}
			if strings.TrimSpace(text) == "" {
				continue
			}
			last := &s.lines[len(s.lines)-1]
			if strings.TrimSpace(text) == "EOF" {
				last.eof = true
				continue
			}
			b, err := unquote(text)
			if err != nil {
				t.Fatalf("%s:%d: %v", file, n+1, err)
			}
			last.data = append(last.data, b...)
		}
		all = append(all, s)
	}
	return all
}

var token = regexp.MustCompile(`^ *(?:("[^"]*")(?:/([0-9]+)(s?))?|([0-9a-f]+)(?:\*([0-9]+))?)`)

// unquote reads tokens: hexadecimal bytes, bytes*count, "text", "text"/size padded with zeroes,
// "text"/sizes with spaces.
func unquote(s string) ([]byte, error) {
	var b []byte
	for s = strings.TrimRight(s, " "); s != ""; {
		m := token.FindStringSubmatch(s)
		if m == nil {
			return nil, fmt.Errorf("no token at %q", s)
		}
		s = s[len(m[0]):]
		if m[1] != "" {
			text := strings.Trim(m[1], `"`)
			size, _ := strconv.Atoi(m[2])
			pad := "\x00"
			if m[3] != "" {
				pad = " "
			}
			b = append(b, text+strings.Repeat(pad, max(0, size-len(text)))...)
			continue
		}
		v, err := hex.DecodeString(m[4])
		if err != nil {
			return nil, err
		}
		n := 1
		if m[5] != "" {
			n, _ = strconv.Atoi(m[5])
		}
		b = append(b, bytes.Repeat(v, n)...)
	}
	return b, nil
}

// said returns everything that the host says on one connection.
func (s script) said(conn int) []byte {
	var b []byte
	for _, m := range s.lines {
		if !m.server && m.conn == conn {
			b = append(b, m.data...)
		}
	}
	return b
}

// play plays the host, and fails when the server says anything else than the script.
func (s script) play(t *testing.T, addr string) {
	var conns [2]*net.TCPConn
	for _, m := range s.lines {
		if conns[m.conn] == nil {
			conns[m.conn] = dial(t, addr)
		}
		conn := conns[m.conn]
		switch {
		case !m.server && m.eof:
			conn.CloseWrite()
		case !m.server:
			if _, err := conn.Write(m.data); err != nil {
				t.Fatalf("%s:%d: %v", s.file, m.number, err)
			}
		case m.eof:
			ended(t, conn)
		default:
			got := make([]byte, len(m.data))
			n, err := io.ReadFull(conn, got)
			if !bytes.Equal(got[:n], m.data) {
				t.Fatalf("%s:%d: %v\n%s", s.file, m.number, err, differ(got[:n], m.data))
			}
		}
	}
}

// differ shows where two messages part.
func differ(got, want []byte) string {
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	show := func(b []byte) string { return hex.EncodeToString(b[min(at, len(b)):min(at+32, len(b))]) }
	return fmt.Sprintf("from byte %d of %d:\n got %s\nwant %s", at, len(want), show(got), show(want))
}

// ended waits for the end of a connection.
func ended(t testing.TB, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Fatalf("read %d, %v; want the end", n, err)
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

// TestScripts holds the server against conversations, byte by byte.
func TestScripts(t *testing.T) {
	for _, s := range scripts(t) {
		t.Run(filepath.Base(s.file), func(t *testing.T) {
			addr, _ := start(t, &Server{})
			s.play(t, addr)
		})
	}
}

package iscsi

import (
	"bytes"
	"encoding/hex"
	"flag"
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

var update = flag.Bool("update", false, "write what the other side says into the scripts; read them before you keep them")

// script is a conversation, one PDU a line: "S:" from the target, "C:" from the initiator, in
// tokens that parse explains; "EOF" is the end of that direction. "D: header data" turns digests on
// from there. Lines that begin otherwise are for the test.
type script struct {
	file  string
	lines []line
}

type line struct {
	who  string // "S:", "C:", ...
	text string
}

func scripts(t testing.TB, pattern string) []script {
	t.Helper()
	var all []script
	for _, f := range glob(t, pattern) {
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s := script{file: f}
		for text := range strings.Lines(string(src)) {
			who, rest, _ := strings.Cut(strings.TrimSuffix(text, "\n"), " ")
			s.lines = append(s.lines, line{who, rest})
		}
		all = append(all, s)
	}
	return all
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no file matches %s: %v", pattern, err)
	}
	return files
}

var token = regexp.MustCompile(`^ *(?:@(\d+)|(\+)|"((?:[^"\\]|\\.)*)"|((?:[0-9a-f]{2})+|\?\?)(?:\*(\d+))?)`)

// parse reads a PDU: hexadecimal bytes, bytes*count, "text" with a NUL behind it, ?? for any byte,
// @offset to go on there with zeroes before, and + where the data begins. The header's data length,
// padding and digests are added, unless the line begins with !.
func parse(s string, d digests) (b, any []byte, err error) {
	data := -1
	s, raw := strings.CutPrefix(strings.TrimSpace(s), "!")
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		m := token.FindStringSubmatch(s)
		if m == nil {
			return nil, nil, fmt.Errorf("no token at %q", s)
		}
		s = s[len(m[0]):]
		switch {
		case m[1] != "":
			at, _ := strconv.Atoi(m[1])
			b = append(b, make([]byte, max(at-len(b), 0))...)
		case m[2] != "":
			b = append(b, make([]byte, headerSize-len(b))...)
			data = len(b)
		case m[4] != "":
			v, err := hex.DecodeString(m[4])
			if err != nil { // ??
				v = []byte{0}
			}
			n := 1
			if m[5] != "" {
				n, _ = strconv.Atoi(m[5])
			}
			for range n {
				if err != nil {
					any = append(any, make([]byte, len(b)-len(any))...)
					any = append(any, 1)
				}
				b = append(b, v...)
			}
		default:
			v, err := strconv.Unquote(`"` + m[3] + `"`)
			if err != nil {
				return nil, nil, err
			}
			b = append(append(b, v...), 0)
		}
	}
	if data < 0 {
		b = append(b, make([]byte, max(headerSize-len(b), 0))...)
		data = len(b)
	}
	var h header
	copy(h[:], b)
	if raw {
		return b, any, nil
	}
	out := d.appendPDU(nil, &h, b[data:])
	d.seal(out)
	return out, append(any, make([]byte, len(out)-len(any))...), nil
}

// show is the inverse of parse.
func show(h *header, data []byte) string {
	b := *h
	b.setDataLen(0)
	out := hex.EncodeToString(b[:1]) + " " + hex.EncodeToString(b[1:2])
	if b[2] != 0 || b[3] != 0 {
		out += " " + hex.EncodeToString(b[2:4])
	}
	for at := 8; at < headerSize; at += 4 {
		if w := b[at : at+4]; be.Uint32(w) != 0 {
			out += fmt.Sprintf(" @%d %x", at, w)
		}
	}
	if len(data) == 0 {
		return out
	}
	out += " +"
	if bytes.IndexFunc(data, func(r rune) bool { return r != 0 && (r < ' ' || r > '~') }) < 0 && data[len(data)-1] == 0 && data[0] != 0 {
		for item := range strings.SplitSeq(strings.TrimSuffix(string(data), "\x00"), "\x00") {
			out += " " + strconv.Quote(item)
		}
		return out
	}
	for len(data) > 0 {
		run := 1
		for run < len(data) && data[run] == data[0] {
			run++
		}
		if run >= 4 {
			out += fmt.Sprintf(" %x*%d", data[:1], run)
		} else {
			run = 1
			for run < len(data) && (run+4 > len(data) || !bytes.Equal(data[run:run+4], bytes.Repeat(data[run:run+1], 4))) {
				run++
			}
			out += fmt.Sprintf(" %x", data[:run])
		}
		data = data[run:]
	}
	return out
}

// said returns everything that one side says in a script.
func (s script) said(who string) []byte {
	var b []byte
	var d digests
	for _, l := range s.lines {
		switch {
		case l.who == "D:":
			d = parseDigests(l.text)
		case l.who == who && l.text != "EOF":
			p, _, _ := parse(l.text, d)
			b = append(b, p...)
		}
	}
	return b
}

func parseDigests(s string) digests {
	return digests{header: strings.Contains(s, "header"), data: strings.Contains(s, "data")}
}

// play plays the side me on conn, and fails when the other says anything else than the script.
func (s *script) play(t *testing.T, conn net.Conn, me string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(patience))
	var d digests
	for i := range s.lines {
		l := &s.lines[i]
		switch {
		case l.who == "D:":
			d = parseDigests(l.text)
		case l.who != "S:" && l.who != "C:":
		case l.who == me && l.text == "EOF":
			conn.(interface{ CloseWrite() error }).CloseWrite()
		case l.who == me:
			b, _, err := parse(l.text, d)
			if err == nil {
				_, err = conn.Write(b)
			}
			if err != nil {
				t.Fatalf("%s:%d: %v", s.file, i+1, err)
			}
		case l.text == "EOF":
			if n, err := conn.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(fmt.Sprint(err), "reset") {
				t.Fatalf("%s:%d: read %d, %v; want the end", s.file, i+1, n, err)
			}
		default:
			s.expect(t, conn, i, d)
		}
	}
	if *update {
		s.rewrite(t)
	}
}

// expect holds the next PDU against line i.
func (s *script) expect(t *testing.T, conn net.Conn, i int, d digests) {
	t.Helper()
	var h header
	data, err := d.read(conn, &h, dataLengthMask)
	if err != nil {
		t.Fatalf("%s:%d: %v", s.file, i+1, err)
	}
	if *update && !strings.Contains(s.lines[i].text, "??") {
		s.lines[i].text = show(&h, data)
		return
	}
	want, any, err := parse(s.lines[i].text, d)
	if err != nil {
		t.Fatalf("%s:%d: %v", s.file, i+1, err)
	}
	var g header
	copy(g[:], h[:])
	got := d.appendPDU(nil, &g, data)
	d.seal(got)
	same := len(got) == len(want)
	for j := 0; same && j < len(got); j++ {
		same = got[j] == want[j] || any[j] == 1
	}
	if !same {
		t.Fatalf("%s:%d:\n got %s\nwant %s", s.file, i+1, show(&h, data), s.lines[i].text)
	}
}

func (s *script) rewrite(t *testing.T) {
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(strings.TrimSpace(l.who+" "+l.text) + "\n")
	}
	if err := os.WriteFile(s.file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// captured returns the bytes of testdata/captured/NAME.hex, whose first line says what it is.
func captured(t testing.TB, file string) []byte {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, digits, _ := strings.Cut(string(src), "\n")
	b, err := hex.DecodeString(strings.ReplaceAll(digits, "\n", ""))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return b
}

package bootvm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"netroot/internal/term"
)

// table has the boots of this run.
var table boots

type boots struct {
	mu   sync.Mutex
	rows []*row
}

type row struct {
	mu                                   sync.Mutex
	test                                 string
	label                                string
	firmware, transport, pack, initramfs string
	login                                time.Duration // time since the start of qemu; 0: never
	status                               string
	notes                                []string
}

func (t *boots) add(test, label string, m machine) *row {
	r := &row{test: strings.TrimPrefix(test, "Test"), label: label, firmware: m.Firmware, transport: m.Transport, pack: m.Pack, initramfs: m.Initramfs}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
	return r
}

// loggedIn parses a greeting: firmware, file system of the image, root=.
func (r *row) loggedIn(after time.Duration, greeting string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.login = after
	f := strings.Fields(greeting)
	if len(f) != 4 || f[0] != "@" {
		r.notes = append(r.notes, fmt.Sprintf("greeted by %q", greeting))
		return
	}
	r.firmware, r.pack = f[1], f[2]
	r.transport = transportOf(strings.TrimPrefix(strings.TrimPrefix(f[3], "net"), "root="))
	if r.initramfs == "" {
		r.initramfs = "netroot"
	}
}

// transportOf returns the transport in root= (internal/handoff).
func transportOf(root string) string {
	name, rest, _ := strings.Cut(root, ":")
	if name == "live" {
		scheme, _, _ := strings.Cut(rest, ":")
		return map[string]string{"http": "http", "nfs": "nfs-image"}[scheme]
	}
	return name
}

func (r *row) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *row) ended(res result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = fmt.Sprintf("status %d", res.status)
	if res.err == nil {
		r.status = "ok"
	}
}

// print writes the table to w, and also to file if it is not empty.
func (t *boots) print(w io.Writer, file string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := [][]string{{"BOOTED", "FIRMWARE", "TRANSPORT", "ROOT", "INITRAMFS", "LOGIN", "ENDED", "TEST", "NOTE"}}
	for _, r := range t.rows {
		r.mu.Lock()
		login := "never"
		if r.login > 0 {
			login = term.Duration(r.login)
		}
		cells := []string{r.label, r.firmware, r.transport, r.pack, r.initramfs, login, r.status, r.test, strings.Join(r.notes, "; ")}
		r.mu.Unlock()
		for i := range cells {
			if cells[i] == "" && i < len(cells)-1 {
				cells[i] = "-"
			}
		}
		rows = append(rows, cells)
	}
	if len(t.rows) == 0 {
		return nil
	}
	var text bytes.Buffer
	if err := term.Table(&text, rows); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "\n%s\n", text.String()); err != nil || file == "" {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o644)
}

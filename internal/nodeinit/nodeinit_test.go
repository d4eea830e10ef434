package nodeinit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/report"
)

// quiet is a node whose console a test reads.
func quiet() (*node, *bytes.Buffer) {
	var said bytes.Buffer
	n := newNode()
	n.console = report.NewConsole(&said)
	n.to = report.All{n.console, n.history}
	n.spread = func() float64 { return 0.5 } // no jitter
	return n, &said
}

func TestFetchLayer(t *testing.T) {
	body := []byte("an archive")
	sum := sha256.Sum256(body)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/ok/"):
			w.Write(body)
		case strings.HasPrefix(r.URL.Path, "/bad/"):
			w.Write([]byte("something else"))
		case strings.HasPrefix(r.URL.Path, "/cut/"):
			w.Header().Set("Content-Length", "1000")
			w.Write(body)
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	for path, want := range map[string]string{"/ok/": "", "/bad/": "what came has digest", "/cut/": "unexpected EOF", "/none/": "404"} {
		got, err := fetchLayer(t.Context(), handoff.Layer{URL: srv.URL + path + digest, Digest: handoff.Digest(digest)})
		switch {
		case want == "" && (err != nil || !bytes.Equal(got, body)):
			t.Errorf("%s: %q, %v", path, got, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want an error with %q", path, err, want)
		}
	}
}

func TestShell(t *testing.T) {
	file := t.TempDir() + "/motd"
	os.WriteFile(file, []byte("hello from a file\n"), 0o644)
	n := newNode()
	report.Step{Name: "attach", To: n.history}.Fault(errors.New("refused"))
	var out strings.Builder
	n.runShell(strings.NewReader("help\n\nsteps\ncat "+file+"\ncat /none\nfrobnicate\nmodprobe\nls "+t.TempDir()+"\nretry\ncat never\n"), &out)
	for _, want := range []string{"poweroff", "attach: FAILED: refused", "hello from a file", "no such file", "frobnicate: no such command", "modprobe: expected one name"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the shell lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "never") {
		t.Error("the shell went on after retry")
	}
}

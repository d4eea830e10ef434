package bootstrap

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBusybox(t *testing.T) {
	needRoot(t)
	program := needTool(t, "busybox")
	body, err := os.ReadFile(program)
	must(t, err)
	var hung context.CancelFunc
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/busybox":
			w.Write(body)
		case "/moved":
			http.Redirect(w, r, "/busybox", http.StatusFound)
		case "/page":
			io.WriteString(w, "<html>sign in, please</html>")
		case "/short":
			w.Header().Set("Content-Length", "1000000")
			w.Write(body[:1000])
		case "/hang":
			w.Write(body[:1000])
			w.(http.Flusher).Flush()
			hung()
			<-r.Context().Done()
		case "/dynamic":
			sh, _ := os.ReadFile("/bin/sh")
			w.Write(sh)
		default:
			http.Error(w, "no", http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	for path, want := range map[string]string{
		"/busybox": "", "/moved": "",
		"/none":    "bootstrap busybox: MirrorURL: fetch " + server.URL + "/none: the server answered 404 Not Found",
		"/page":    "/page: not a program: bad magic number",
		"/short":   "unexpected EOF",
		"/dynamic": "linked to libraries, which the tree does not have",
	} {
		j := job(t, "Bootstrap: busybox\nMirrorURL: "+server.URL+path+"\n")
		err := runAgent(t, j)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", path, err, want)
			}
			continue
		}
		must(t, err)
		if err := j.runInside(t.Context(), "/bin/sh", "-c", "ls -l /etc/passwd && grep -q ^root: /etc/group && test $(id -un) = root"); err != nil {
			t.Errorf("the tree's shell: %v", err)
		}
		if fi, err := os.Stat(filepath.Join(j.Root, "etc/hosts")); err != nil || fi.Mode() != 0o644 {
			t.Errorf("etc/hosts: %v", err)
		}
	}
	for header, want := range map[string]string{"": "MirrorURL: is missing", "MirrorURL: ftp://x/busybox\n": "ftp://x/busybox is not an http:// or https:// URL"} {
		if err := runAgent(t, job(t, "Bootstrap: busybox\n"+header)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", header, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	hung = cancel
	if err := busybox(ctx, job(t, "Bootstrap: busybox\nMirrorURL: "+server.URL+"/hang\n")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

package attach

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/internal/handoff"
)

// webRoot serves content as netroot does, and lets the test spoil a request: one for which spoil
// returns true has been answered.
func webRoot(t *testing.T, content []byte, spoil func(n int, w http.ResponseWriter, r *http.Request) bool) (url string, asked *[]string) {
	t.Helper()
	asked = new([]string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Header.Get("Range")) // one request at a time
		w.Header().Set("ETag", `"one"`)
		if !spoil(len(*asked), w, r) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		}
	}))
	t.Cleanup(func() {
		Web.CloseIdleConnections()
		server.Close()
	})
	return server.URL, asked
}

func fetchRoot(t *testing.T, urls, want string, meminfo string) ([]byte, string, error) {
	t.Helper()
	step, told := quiet()
	d := newDownload(strings.Split(urls, ","), handoff.Digest(want), step)
	d.pause = time.Millisecond
	if meminfo != "" {
		d.meminfo = filepath.Join(t.TempDir(), "meminfo")
		if err := os.WriteFile(d.meminfo, []byte(meminfo), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file, err := d.run(t.Context())
	said := told
	if err != nil {
		return nil, said.String(), err
	}
	defer file.Close()
	got, err := io.ReadAll(io.NewSectionReader(file, 0, 1<<30))
	return got, said.String(), err
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// breakOff sends the first n bytes of what was requested and closes the connection.
func breakOff(w http.ResponseWriter, r *http.Request, content []byte, n int) {
	short := &shortWriter{ResponseWriter: w, left: n}
	http.ServeContent(short, r, "", time.Time{}, bytes.NewReader(content))
	panic(http.ErrAbortHandler)
}

type shortWriter struct {
	http.ResponseWriter
	left int
}

func (w *shortWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b[:min(len(b), w.left)])
	if w.left -= n; w.left == 0 {
		w.ResponseWriter.(http.Flusher).Flush()
		return n, errors.New("hung up")
	}
	return n, err
}

// TestDownloadGoesOn: an interrupted download continues where it ended, however often the server
// fails meanwhile.
func TestDownloadGoesOn(t *testing.T) {
	content := bytes.Repeat([]byte("netroot "), 64<<10)
	url, asked := webRoot(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch {
		case n == 1:
			breakOff(w, r, content, 100_000)
		case n < 8:
			http.Error(w, "starting", http.StatusServiceUnavailable)
			return true
		case n == 8:
			breakOff(w, r, content, 1000)
		}
		return false
	})
	got, said, err := fetchRoot(t, url, digestOf(content), "")
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if last := (*asked)[len(*asked)-1]; len(*asked) != 9 || (*asked)[1] != "bytes=100000-" || last != "bytes=101000-" {
		t.Errorf("asked for %q", *asked)
	}
	if !strings.Contains(said, "503 Service Unavailable; going on at 0.1 MiB") {
		t.Errorf("told: %s", said)
	}
}

// TestDownloadFromSeveral: several servers are asked in turn, and one continues where another was
// interrupted.
func TestDownloadFromSeveral(t *testing.T) {
	content := bytes.Repeat([]byte("netroot "), 64<<10)
	good := func(int, http.ResponseWriter, *http.Request) bool { return false }
	absent := func(_ int, w http.ResponseWriter, r *http.Request) bool {
		http.NotFound(w, r)
		return true
	}
	broken := func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			breakOff(w, r, content, 100_000)
		}
		return absent(n, w, r)
	}
	once := func(n int, w http.ResponseWriter, r *http.Request) bool { return n == 1 && broken(n, w, r) }
	wrong := func(_ int, w http.ResponseWriter, r *http.Request) bool {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content[1:]))
		return true
	}
	type spoiled []func(int, http.ResponseWriter, *http.Request) bool
	for name, tt := range map[string]struct {
		servers spoiled
		asked   []string // what the second was first asked for
		said    string
	}{
		"the first has it":           {spoiled{good, good}, nil, ""},
		"the first does not have it": {spoiled{absent, good}, []string{""}, "the server says 404 Not Found; going on at 0.0 MiB from "},
		"the first breaks off":       {spoiled{broken, good}, []string{"bytes=100000-"}, "going on at 0.1 MiB from "},
		"the first has another":      {spoiled{wrong, good}, []string{""}, "what came has digest sha256:"},
		"two break off":              {spoiled{broken, broken, good}, []string{"bytes=100000-"}, "going on at 0.2 MiB from "},
		"the first comes back":       {spoiled{once, absent}, []string{"bytes=100000-"}, "404 Not Found; going on at 0.1 MiB from "},
	} {
		t.Run(name, func(t *testing.T) {
			var urls []string
			var asked *[]string
			for i, spoil := range tt.servers {
				url, its := webRoot(t, content, spoil)
				urls = append(urls, url)
				if i == 1 {
					asked = its
				}
			}
			got, said, err := fetchRoot(t, strings.Join(urls, ","), digestOf(content), "")
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if !slices.Equal((*asked)[:min(len(*asked), 1)], tt.asked) {
				t.Errorf("the second was asked for %q, want %q", *asked, tt.asked)
			}
			if !strings.Contains(said, tt.said) {
				t.Errorf("told: %s", said)
			}
		})
	}
}

// TestDownloadStalls: a download is given up if nothing more arrives, so that the boot can ask for
// a new plan.
func TestDownloadStalls(t *testing.T) {
	content := make([]byte, 1<<20)
	url, asked := webRoot(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			breakOff(w, r, content, 1000)
		}
		http.Error(w, "withdrawn", http.StatusGone)
		return true
	})
	step, told := quiet()
	d := newDownload([]string{url}, "", step)
	d.pause, d.stalled = time.Millisecond, 50*time.Millisecond
	file, err := d.run(t.Context())
	if err == nil {
		file.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "410 Gone") || len(*asked) < 3 {
		t.Errorf("%v after %d requests; told: %s", err, len(*asked), told)
	}
}

// TestDownloadFromSilentServer: a connection that stays open and brings nothing is replaced, and
// the download continues on the next.
func TestDownloadFromSilentServer(t *testing.T) {
	content := bytes.Repeat([]byte("netroot "), 64<<10)
	url, asked := webRoot(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch n {
		case 1: // in the middle of the answer
			http.ServeContent(&shortWriter{ResponseWriter: w, left: 100_000}, r, "", time.Time{}, bytes.NewReader(content))
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		case 2: // before it
			<-r.Context().Done()
			return true
		}
		return false
	})
	step, told := quiet()
	d := newDownload([]string{url}, handoff.Digest(digestOf(content)), step)
	d.pause, d.silence = time.Millisecond, 500*time.Millisecond
	file, err := d.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if !slices.Equal(*asked, []string{"", "bytes=100000-", "bytes=100000-"}) {
		t.Errorf("asked for %q", *asked)
	}
	if n := strings.Count(told.String(), "the server sent nothing for too long (500ms); going on at 0.1 MiB"); n != 2 {
		t.Errorf("told %d times: %s", n, told)
	}
}

// TestDownloadTrickles: as long as something arrives, a download is not given up.
func TestDownloadTrickles(t *testing.T) {
	content := make([]byte, 20_000)
	url, asked := webRoot(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n <= 10 {
			breakOff(w, r, content, 1000)
		}
		return false
	})
	step, _ := quiet()
	d := newDownload([]string{url}, "", step)
	d.pause, d.stalled = 20*time.Millisecond, 50*time.Millisecond // less than ten pauses
	file, err := d.run(t.Context())
	if err != nil || len(*asked) != 11 {
		t.Fatalf("%v after %d requests", err, len(*asked))
	}
	file.Close()
}

// TestDownloadBeginsAnew: a server that does not support ranges, or whose file has changed, sends
// the whole file.
func TestDownloadBeginsAnew(t *testing.T) {
	old, content := bytes.Repeat([]byte("old"), 100_000), bytes.Repeat([]byte("new"), 50_000)
	url, _ := webRoot(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			breakOff(w, r, old, 200_000)
		}
		w.Header().Set("ETag", `"two"`)
		return false
	})
	got, _, err := fetchRoot(t, url, digestOf(content), "")
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestDownloadRefuses(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 1<<20)
	good := func(int, http.ResponseWriter, *http.Request) bool { return false }
	for name, tt := range map[string]struct {
		spoil        func(int, http.ResponseWriter, *http.Request) bool
		digest, free string
		want         string
	}{
		"other bytes": {good, digestOf(content[1:]), "", "what came has digest sha256:"},
		"no memory": {good, digestOf(content), "MemTotal: 300000 kB\nMemAvailable:  196608 kB\n",
			"not enough memory: the image is 1.0 MiB and 192.0 MiB are free"},
		"not there": {func(_ int, w http.ResponseWriter, r *http.Request) bool {
			http.NotFound(w, r)
			return true
		}, "", "", "the server says 404 Not Found"},
		"endless": {func(_ int, w http.ResponseWriter, r *http.Request) bool {
			w.(http.Flusher).Flush()
			w.Write(content)
			return true
		}, "", "", "does not say how much"},
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := webRoot(t, content, tt.spoil)
			if _, _, err := fetchRoot(t, url, tt.digest, tt.free); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// TestDownloadEnds: when the boot is cancelled, the download ends, too.
func TestDownloadEnds(t *testing.T) {
	content := make([]byte, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	url, _ := webRoot(t, content, func(n int, w http.ResponseWriter, r *http.Request) bool {
		if n == 1 {
			breakOff(w, r, content, 1000)
		}
		cancel()
		http.Error(w, "no", http.StatusBadGateway)
		return true
	})
	step, _ := quiet()
	d := newDownload([]string{url}, "", step)
	d.pause = time.Millisecond
	if file, err := d.run(ctx); err == nil {
		file.Close()
		t.Error("came to an end without the file")
	}
}

package serve

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/layer/folder"
	"netroot/internal/store"
)

// HealthPath is where the HTTP server says whether all tasks are ready.
const HealthPath = "/healthz"

// statusError is an error with the HTTP status that tells of it.
type statusError struct {
	status int
	err    error
	why    error // for the log, where that says more
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// private is an error whose text may have paths of this machine, or names that the client did not
// ask for. It is for the log and the server's administrators.
type private struct{ error }

func (p private) Unwrap() error { return p.error }

// public is the error that a machine gets instead of a plan.
func public(ref string, err error) *statusError {
	known := &statusError{status: http.StatusBadRequest, err: err, why: err}
	switch {
	case errors.Is(err, store.ErrNotFound):
		known.status, known.err = http.StatusNotFound, fmt.Errorf("no such image: %s", ref)
	case errors.Is(err, folder.ErrNotRendered):
		known.status = http.StatusInternalServerError
	case errors.As(err, new(private)):
		known.status, known.err = http.StatusInternalServerError, fmt.Errorf("image %s cannot be given out now; the server's log says why", ref)
	}
	return known
}

func notFound(err error) error { return &statusError{status: http.StatusNotFound, err: err} }

// route is a handler that leaves its errors to answer.
type route func(http.ResponseWriter, *http.Request) error

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, fn := range map[string]route{
		"GET " + boot.ScriptPath + "{script}": s.getScript,
		"GET " + boot.BlobPath + "{digest}":   s.getBlob,
		"GET " + boot.LayerPath + "{digest}":  s.getLayer,
		"GET " + HealthPath:                   s.getHealth,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := fn(w, r); err != nil {
				s.answer(w, err)
			}
		})
	}
	return s.logged(mux)
}

// answer sends an error to the client and to the log. An error that is not meant for clients goes
// to the log alone.
func (s *Server) answer(w http.ResponseWriter, err error) {
	status, text := http.StatusInternalServerError, "internal error; the server's log says more"
	if known := (*statusError)(nil); errors.As(err, &known) {
		status, text, err = known.status, known.Error(), cmp.Or(known.why, err)
	}
	if rec, ok := w.(*recorder); ok {
		rec.why = err
	}
	http.Error(w, text, status)
}

// getScript renders the plan for the machine that asks. The machine reached us as r.Host, so that
// is the server's name in everything the script has it fetch.
func (s *Server) getScript(w http.ResponseWriter, r *http.Request) error {
	ref, ok := strings.CutSuffix(r.PathValue("script"), ".ipxe")
	if !ok || ref == "" {
		return notFound(errors.New("boot scripts are named LABEL.ipxe or LABEL@ID.ipxe"))
	}
	m, told := boot.ParseMachine(r.Host, ref, r.URL.RawQuery)
	isIPXE := strings.HasPrefix(r.UserAgent(), "iPXE/")
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		m.Address = peer.Addr().Unmap()
	}
	var plan boot.Plan
	script, err := "", error(nil)
	if told || !isIPXE {
		plan, err = s.Plan(m)
	}
	switch {
	case isIPXE && !told:
		script = boot.Ask(boot.ScriptURL(r.Host, ref, m.Virtio))
	case err == nil:
		script = plan.IPXE()
	case isIPXE:
		// A status other than 200 would end the boot with iPXE's own words; this ends it with ours,
		// and goes on trying.
		s.refusals.Log(slog.LevelWarn, "boot refused", "peer", r.RemoteAddr, "image", ref, "why", err)
		script = boot.Refusal(public(ref, err).Error(), boot.ScriptURL(r.Host, ref, m.Virtio),
			boot.RefusedBefore(r.URL.RawQuery), rand.Float64())
	default:
		return public(ref, err)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, script) // to a client that has gone it cannot be told
	return nil
}

func (s *Server) getBlob(w http.ResponseWriter, r *http.Request) error {
	digest := r.PathValue("digest")
	blob, err := s.catalog.blob(digest)
	if errors.Is(err, errNoBlob) || errors.Is(err, fs.ErrNotExist) { // or its image has been removed since
		return &statusError{status: http.StatusNotFound, err: errNoBlob, why: err}
	}
	if err != nil {
		return err
	}
	defer blob.Close()
	// A file of its own, since only *os.File goes out by sendfile(2).
	f, err := os.Open(blob.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	immutable(w, r, digest, "application/octet-stream", f)
	return nil
}

func (s *Server) getLayer(w http.ResponseWriter, r *http.Request) error {
	digest := r.PathValue("digest")
	archive, err := s.cfg.Layers.Open(handoff.Digest(digest))
	if errors.Is(err, folder.ErrUnknown) {
		return notFound(err)
	}
	if err != nil {
		return err
	}
	defer archive.Close()
	immutable(w, r, digest, layer.MediaType, archive)
	return nil
}

// immutable sends, whole or in the ranges asked for, what is named by its digest.
func immutable(w http.ResponseWriter, r *http.Request, digest, contentType string, content io.ReadSeeker) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("ETag", `"`+digest+`"`)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, "", time.Time{}, content)
}

// logged writes one line for each request, and few lines for many that are refused.
func (s *Server) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		level, line := slog.LevelInfo, []any{"peer", r.RemoteAddr, "method", r.Method, "path", r.URL.RequestURI(),
			"status", rec.status, "bytes", rec.bytes, "took", time.Since(started).Round(time.Microsecond)}
		why := rec.why
		if why == nil && rec.status >= 400 { // net/http's own word
			why = errors.New(strings.TrimSpace(http.StatusText(rec.status) + " " + r.Header.Get("Range")))
		}
		if why == nil {
			why = rec.cutOff(r)
		}
		if why != nil {
			line = append(line, "why", why)
		}
		switch {
		case rec.status >= 500:
			level = slog.LevelError
		case rec.status >= 400 || why != nil:
			level = slog.LevelWarn
		}
		if level > slog.LevelInfo {
			s.refusals.Log(level, "http", line...)
			return
		}
		s.cfg.Log.Info("http", line...)
	})
}

// recorder counts what a handler sends.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
	why    error // the request was refused
	failed error // the client could not be sent all
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	r.failed = cmp.Or(r.failed, err)
	return n, err
}

// ReadFrom keeps the way to sendfile(2) open, which the server's own ResponseWriter has.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(r.ResponseWriter, src)
	r.bytes += n
	r.failed = cmp.Or(r.failed, err)
	return n, err
}

// cutOff is why less was sent than was promised: the client has gone, or the file has become
// shorter.
func (r *recorder) cutOff(req *http.Request) error {
	promised, err := strconv.ParseInt(r.Header().Get("Content-Length"), 10, 64)
	if err != nil || r.bytes >= promised || req.Method == http.MethodHead {
		return nil
	}
	return cmp.Or(r.failed, fmt.Errorf("%d bytes were promised and no more are there", promised))
}

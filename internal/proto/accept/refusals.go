package accept

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	refusalLines  = 10          // that are logged in refusalPeriod; of those that follow the number is
	refusalPeriod = time.Second // from the first of them
)

// refusals logs what peers do wrong, in so few lines that they cannot fill the log.
type refusals struct {
	log      *slog.Logger
	protocol string
	total    atomic.Uint64 // refusals

	mu         sync.Mutex
	begin      time.Time // of the period
	lines      int       // in it
	suppressed int
	timer      *time.Timer // runs while there are suppressed ones
}

// Refused counts and logs a refusal; see Conn.Refused.
func (l *Loop) Refused(peer string, why error, attrs ...any) {
	l.log.total.Add(1)
	attrs = append([]any{"peer", peer}, attrs...)
	l.log.warn("refused", append(attrs, "why", why)...)
}

// warn logs a line, or counts it when there were too many.
func (r *refusals) warn(what string, attrs ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.begin) >= refusalPeriod {
		r.report()
		r.begin, r.lines = now, 0
	}
	if r.lines++; r.lines <= refusalLines {
		r.log.Warn(r.protocol+": "+what, attrs...)
		return
	}
	if r.suppressed++; r.timer == nil {
		r.timer = time.AfterFunc(refusalPeriod-time.Since(r.begin), r.flush)
	}
}

// flush logs how many lines were suppressed.
func (r *refusals) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report()
}

// report needs r.mu.
func (r *refusals) report() {
	if r.suppressed == 0 {
		return
	}
	r.timer.Stop()
	r.log.Warn(r.protocol+": more refusals within a second, not logged one by one", "number", r.suppressed)
	r.suppressed, r.timer = 0, nil
}

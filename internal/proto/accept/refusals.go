package accept

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	refusalLines  = 10          // that are logged in refusalPeriod; of those that follow the number is
	refusalPeriod = time.Second // from the first of them
)

// Refusals logs what peers do wrong, in so few lines that they cannot fill the log.
type Refusals struct {
	log      *slog.Logger
	protocol string
	total    atomic.Uint64 // refusals of a Loop

	mu         sync.Mutex
	begin      time.Time // of the period
	lines      int       // in it
	suppressed int
	timer      *time.Timer // runs while there are suppressed ones
}

// NewRefusals returns Refusals. protocol is the prefix of the line that has their number.
func NewRefusals(log *slog.Logger, protocol string) *Refusals {
	return &Refusals{log: log, protocol: protocol}
}

// Refused counts and logs a refusal; see Conn.Refused.
func (l *Loop) Refused(peer string, why error, attrs ...any) {
	l.log.total.Add(1)
	attrs = append([]any{"peer", peer}, attrs...)
	l.log.Log(slog.LevelWarn, l.Protocol+": refused", append(attrs, "why", why)...)
}

// Log logs a line, or counts it when there were too many.
func (r *Refusals) Log(level slog.Level, msg string, attrs ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.begin) >= refusalPeriod {
		r.report()
		r.begin, r.lines = now, 0
	}
	if r.lines++; r.lines <= refusalLines {
		r.log.Log(context.Background(), level, msg, attrs...)
		return
	}
	if r.suppressed++; r.timer == nil {
		r.timer = time.AfterFunc(refusalPeriod-time.Since(r.begin), r.Flush)
	}
}

// Flush logs how many lines were suppressed.
func (r *Refusals) Flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report()
}

// report needs r.mu.
func (r *Refusals) report() {
	if r.suppressed == 0 {
		return
	}
	r.timer.Stop()
	r.log.Warn(r.protocol+": more refusals within a second, not logged one by one", "number", r.suppressed)
	r.suppressed, r.timer = 0, nil
}

// Package term reports the progress of a command to people and to programs that start netroot: one
// live line on a terminal, plain lines in a pipe, or one JSON object per line. It formats tables,
// sizes and durations in the same way for all commands. It prints and decides nothing; logs for
// operators are the work of log/slog.
package term

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Options describe what the reader of the output supports.
type Options struct {
	Live  bool // a terminal that can redraw a line
	Color bool
	Width int  // columns of the terminal; 0: not a terminal, lines are not wrapped
	JSON  bool // one Event per line, and nothing else
	// Columns returns the present Width, which changes when somebody resizes the window; nil: it
	// does not change.
	Columns func() int
}

// Detect finds the options for w. NO_COLOR (no-color.org) switches colours off, and a terminal
// whose TERM is "dumb" or empty gets plain lines. getenv is os.Getenv.
func Detect(w io.Writer, getenv func(string) string) Options {
	width := Columns(w)
	if width == 0 {
		return Options{}
	}
	opt := capable(width, getenv)
	opt.Columns = func() int { return Columns(w) }
	return opt
}

// capable are the options for a terminal.
func capable(width int, getenv func(string) string) Options {
	live := getenv("TERM") != "dumb" && getenv("TERM") != ""
	return Options{Live: live, Color: live && getenv("NO_COLOR") == "", Width: width}
}

// Kind says what happened.
type Kind string

// The kinds of events.
const (
	Started  Kind = "start"
	Progress Kind = "progress"
	Done     Kind = "done"
	Failed   Kind = "failed"
	Message  Kind = "message"
	Warning  Kind = "warning"
)

// Event is one line of JSON output.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     Kind      `json:"event"`
	Phase    string    `json:"phase,omitempty"`
	Detail   string    `json:"detail,omitempty"`
	Note     string    `json:"note,omitempty"`
	Fraction float64   `json:"fraction,omitempty"` // of the phase that is done, 0 to 1
	Seconds  float64   `json:"seconds,omitempty"`  // since the phase began
	Error    string    `json:"error,omitempty"`
	Text     string    `json:"text,omitempty"`
}

const (
	redrawEvery = 100 * time.Millisecond // of the live line
	reportEvery = 500 * time.Millisecond // of JSON progress
)

// Printer writes messages and phases. Several goroutines may use it. Errors of writing are ignored:
// a reader that has gone away must not stop a build.
type Printer struct {
	mu      sync.Mutex
	w       io.Writer
	opt     Options
	active  []*Phase    // that have not ended; the live line shows the last one
	timer   *time.Timer // of the next redraw; nil before the first phase
	drawn   bool        // the live line is on the screen
	frame   int         // of the spinner
	partial []byte      // the incomplete last line given to Write
}

// New returns a printer to w.
func New(w io.Writer, opt Options) *Printer {
	opt.Live = opt.Live && !opt.JSON
	if opt.Width <= 0 && opt.Live {
		opt.Width = usualWidth
	}
	return &Printer{w: w, opt: opt}
}

// Message prints a line.
func (p *Printer) Message(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say(Event{Kind: Message, Text: fmt.Sprintf(format, args...)})
}

// Warn prints a message marked as a warning.
func (p *Printer) Warn(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say(Event{Kind: Warning, Text: fmt.Sprintf(format, args...)})
}

// Write prints the complete lines in b as messages and keeps the rest for the next call. A log can
// therefore share the terminal with the live line.
func (p *Printer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.partial = append(p.partial, b...)
	for {
		line, rest, ok := strings.Cut(string(p.partial), "\n")
		if !ok {
			return len(b), nil
		}
		p.partial = []byte(rest)
		p.say(Event{Kind: Message, Text: line})
	}
}

// Phase begins a part of the work. The caller ends it with Done or Fail.
func (p *Printer) Phase(name, detail string) *Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	ph := &Phase{p: p, name: name, detail: clean(detail), began: time.Now()}
	p.active = append(p.active, ph)
	if p.opt.Live {
		p.draw()
		if p.timer == nil {
			p.timer = time.AfterFunc(redrawEvery, p.tick)
		}
	} else {
		p.say(Event{Kind: Started, Phase: name, Detail: ph.detail})
	}
	return ph
}

// Phase is a part of the work that has begun.
type Phase struct {
	p            *Printer
	name, detail string
	began        time.Time

	// Guarded by p.mu.
	fraction float64
	note     string
	result   string
	reported time.Time // time of the last JSON progress
	ended    bool
}

// Progress sets the fraction of the phase that is done, from 0 to 1.
func (ph *Phase) Progress(fraction float64) {
	ph.p.mu.Lock()
	defer ph.p.mu.Unlock()
	ph.fraction = min(max(fraction, 0), 1)
	ph.report()
}

// Note sets what the phase works on at present. It is not printed to pipes.
func (ph *Phase) Note(text string) {
	ph.p.mu.Lock()
	defer ph.p.mu.Unlock()
	ph.note = clean(text)
	ph.report()
}

// Result sets the text that Done prints instead of "done".
func (ph *Phase) Result(text string) {
	ph.p.mu.Lock()
	defer ph.p.mu.Unlock()
	ph.result = clean(text)
}

// Done ends the phase.
func (ph *Phase) Done() { ph.end(Event{Kind: Done}) }

// Fail ends the phase without success. Only JSON output includes err: for people the command prints
// the error once, at its end.
func (ph *Phase) Fail(err error) {
	e := Event{Kind: Failed}
	if err != nil {
		e.Error = err.Error()
	}
	ph.end(e)
}

func (ph *Phase) end(e Event) {
	p := ph.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if ph.ended {
		return
	}
	ph.ended = true
	p.active = slices.DeleteFunc(p.active, func(other *Phase) bool { return other == ph })
	if len(p.active) == 0 && p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	e.Phase, e.Detail, e.Seconds = ph.name, ph.detail, time.Since(ph.began).Seconds()
	if e.Kind == Done {
		e.Text = ph.result
	}
	p.say(e)
}

// report writes the progress as JSON, at most once in reportEvery.
func (ph *Phase) report() {
	now := time.Now()
	if !ph.p.opt.JSON || ph.ended || now.Sub(ph.reported) < reportEvery {
		return
	}
	ph.reported = now
	ph.p.say(Event{Kind: Progress, Phase: ph.name, Note: ph.note, Fraction: ph.fraction, Seconds: now.Sub(ph.began).Seconds()})
}

// say prints an event that stays on the screen. The caller holds the lock, here and below.
func (p *Printer) say(e Event) {
	if p.opt.JSON {
		e.Time = time.Now()
		JSONLine(p.w, e) // for errors see Printer
		return
	}
	if p.drawn {
		io.WriteString(p.w, eraseLine)
		p.drawn = false
	}
	io.WriteString(p.w, Wrap(p.line(e), p.width(), "  ")+"\n")
	p.draw()
}

// width is the number of columns at this moment.
func (p *Printer) width() int {
	if p.opt.Columns != nil {
		if now := p.opt.Columns(); now > 0 {
			return now
		}
	}
	return p.opt.Width
}

// line is the event as text for people.
func (p *Printer) line(e Event) string {
	took := Duration(time.Duration(e.Seconds * float64(time.Second)))
	name := e.Phase
	if p.opt.Live && e.Detail != "" { // the line that announced it was erased
		name += ": " + e.Detail
	}
	switch e.Kind {
	case Started:
		return strings.TrimSuffix(e.Phase+": "+e.Detail, ": ")
	case Done:
		return name + ": " + p.color("32", cmp.Or(e.Text, "done")) + " in " + took
	case Failed:
		return name + ": " + p.color("31", "failed") + " after " + took
	case Warning:
		return p.color("33", "warning") + ": " + e.Text
	default:
		return e.Text
	}
}

func (p *Printer) color(code, text string) string {
	if !p.opt.Color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// eraseLine is ECMA-48's carriage return and "erase to the end of the line".
const eraseLine = "\r\x1b[K"

func (p *Printer) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.frame++
		p.draw()
		p.timer.Reset(redrawEvery)
	}
}

// draw writes the live line of the newest phase, if there is a phase.
func (p *Printer) draw() {
	if !p.opt.Live || len(p.active) == 0 {
		return
	}
	ph := p.active[len(p.active)-1]
	elapsed := int(time.Since(ph.began).Seconds())
	fields := []string{string(`|/-\`[p.frame%4]) + " " + ph.name, ph.detail, fmt.Sprintf("%d:%02d", elapsed/60, elapsed%60)}
	if ph.fraction > 0 {
		fields = append(fields, fmt.Sprintf("%.0f %%", 100*ph.fraction))
	}
	fields = append(fields, ph.note)
	fields = slices.DeleteFunc(fields, func(s string) bool { return s == "" })
	line := []rune(strings.Join(fields, "  "))
	line = line[:min(len(line), max(p.width()-1, 0))] // a full line would wrap and could not be erased
	io.WriteString(p.w, eraseLine+string(line))
	p.drawn = true
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[@-~]")

// clean removes escape sequences and control characters, so that a line of foreign text can be
// redrawn.
func clean(s string) string {
	s = escapes.ReplaceAllString(s, "")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}

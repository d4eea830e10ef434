package term

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// screen is what a terminal shows after out. It knows line feeds, carriage returns and the erasure
// of a line, and fails if a line would wrap.
func screen(t *testing.T, out string, width int) []string {
	t.Helper()
	lines := []string{""}
	column := 0
	for out != "" {
		last := &lines[len(lines)-1]
		switch {
		case strings.HasPrefix(out, "\x1b[K"):
			*last = (*last)[:column]
			out = out[3:]
			continue
		case out[0] == '\r':
			column = 0
		case out[0] == '\n':
			lines, column = append(lines, ""), 0
		case out[0] < ' ':
			t.Fatalf("control character in %q", out)
		default:
			if column >= width-1 {
				t.Fatalf("line wraps: %q", *last)
			}
			*last = (*last)[:column] + out[:1] + (*last)[min(column+1, len(*last)):]
			column++
		}
		out = out[1:]
	}
	return lines
}

// pass advances the clock of the bubble.
func pass(d time.Duration) { <-time.After(d) }

// work does what a build does with a printer.
func work(p *Printer) {
	tree := p.Phase("bootstrap", "mmdebstrap bookworm")
	pass(700 * time.Millisecond)
	tree.Progress(0.25)
	tree.Note("unpacking \x1b[1mlibc6\x1b[0m\r")
	p.Warn("no mirror in the recipe")
	pass(65 * time.Second)
	tree.Done()
	tree.Done()
	pack := p.Phase("pack", "")
	pass(1500 * time.Millisecond)
	p.Message("squashfs %s", Size(123<<20))
	pack.Fail(errors.New("disk full"))
}

func TestPlain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		work(New(&out, Options{}))
		want := `bootstrap: mmdebstrap bookworm
warning: no mirror in the recipe
bootstrap: done in 1 min 06 s
pack
squashfs 123 MiB
pack: failed after 1.5 s
`
		if diff := cmp.Diff(want, out.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := New(&out, Options{Live: true, Width: 70})
		ph := p.Phase("bootstrap", "mmdebstrap bookworm")
		ph.Progress(0.254)
		ph.Note("unpacking \x1b[1mlibc6\x1b[0m\tnow")
		pass(65*time.Second + time.Millisecond)
		synctest.Wait()
		want := []string{"| bootstrap  mmdebstrap bookworm  1:05  25 %  unpacking libc6 now"}
		want[0] = `|/-\`[650%4:650%4+1] + want[0][1:]
		if diff := cmp.Diff(want, screen(t, out.String(), 70)); diff != "" {
			t.Error(diff)
		}
		if draws := strings.Count(out.String(), eraseLine); draws < 640 || draws > 652 {
			t.Errorf("redrawn %d times in 65 s", draws)
		}
		p.Warn("something")
		ph.Note(strings.Repeat("long ", 40))
		pass(time.Second)
		inner := p.Phase("post", "")
		pass(time.Second)
		inner.Result("4 files")
		inner.Done()
		ph.Done()
		before := out.Len()
		pass(time.Minute)
		synctest.Wait()
		if out.Len() != before {
			t.Error("it still draws after the last phase")
		}
		want = []string{"warning: something", "post: 4 files in 1.0 s", "bootstrap: mmdebstrap bookworm: done in 1 min 07 s", ""}
		if diff := cmp.Diff(want, screen(t, out.String(), 70)); diff != "" {
			t.Error(diff)
		}
	})
}

// TestNarrowed: after the window was made narrower, the live line and whole lines fit it.
func TestNarrowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		width := 60
		p := New(&out, Options{Live: true, Width: 60, Columns: func() int { return width }})
		ph := p.Phase("bootstrap", "mmdebstrap bookworm")
		ph.Note(strings.Repeat("long ", 40))
		pass(time.Second)
		out.Reset()
		width = 30
		pass(time.Second)
		p.Message("a message that is longer than the window")
		ph.Done()
		want := []string{"a message that is longer than", "  the window", "bootstrap: mmdebstrap", "  bookworm: done in 2.0 s", ""}
		if diff := cmp.Diff(want, screen(t, out.String(), 31)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := New(&out, Options{JSON: true, Live: true, Color: true})
		began := time.Now()
		work(p)
		var got []Event
		for dec := json.NewDecoder(&out); ; {
			var e Event
			err := dec.Decode(&e)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if e.Time.Before(began) {
				t.Errorf("time is %v", e.Time)
			}
			e.Time = time.Time{}
			got = append(got, e)
		}
		want := []Event{
			{Kind: Started, Phase: "bootstrap", Detail: "mmdebstrap bookworm"},
			{Kind: Progress, Phase: "bootstrap", Fraction: 0.25, Seconds: 0.7},
			{Kind: Warning, Text: "no mirror in the recipe"},
			{Kind: Done, Phase: "bootstrap", Detail: "mmdebstrap bookworm", Seconds: 65.7},
			{Kind: Started, Phase: "pack"},
			{Kind: Message, Text: "squashfs 123 MiB"},
			{Kind: Failed, Phase: "pack", Seconds: 1.5, Error: "disk full"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestJSONProgressIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ph := New(&out, Options{JSON: true}).Phase("pack", "")
		for i := range 1000 {
			ph.Progress(float64(i) / 1000)
			pass(10 * time.Millisecond)
		}
		ph.Done()
		ph.Progress(1)
		if n := strings.Count(out.String(), "\n"); n != 1+20+1 {
			t.Errorf("%d lines in 10 s:\n%s", n, out.String())
		}
	})
}

func TestColor(t *testing.T) {
	var out bytes.Buffer
	p := New(&out, Options{Color: true})
	p.Warn("x")
	p.Phase("a", "").Fail(nil)
	if !strings.Contains(out.String(), "\x1b[33mwarning\x1b[0m: x\n") || !strings.Contains(out.String(), "\x1b[31mfailed\x1b[0m") {
		t.Errorf("%q", out.String())
	}
}

func TestWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := New(&out, Options{Live: true})
		ph := p.Phase("serve", "")
		log := slog.New(slog.NewTextHandler(p, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		log.Info("first")
		fmt.Fprint(p, "half")
		fmt.Fprint(p, " a line\nthe next\nrest")
		ph.Done()
		got := screen(t, out.String(), 80)
		if diff := cmp.Diff([]string{"level=INFO msg=first", "half a line", "the next", "serve: done in 0 ms", ""}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestManyGoroutines(t *testing.T) {
	var out bytes.Buffer
	p := New(&out, Options{Live: true})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			ph := p.Phase(fmt.Sprint("p", i), "")
			for j := range 100 {
				ph.Progress(float64(j) / 100)
				ph.Note("n")
				p.Message("m%d", i)
			}
			ph.Done()
		})
	}
	wg.Wait()
	lines := screen(t, out.String(), 80)
	if len(lines) != 8*101+1 || lines[len(lines)-1] != "" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func TestDetect(t *testing.T) {
	for env, want := range map[string]Options{
		"TERM=xterm":            {Live: true, Color: true, Width: 100},
		"TERM=xterm NO_COLOR=1": {Live: true, Width: 100},
		"TERM=xterm NO_COLOR=":  {Live: true, Color: true, Width: 100},
		"TERM=dumb":             {Width: 100},
		"":                      {Width: 100},
	} {
		getenv := func(name string) string {
			for _, kv := range strings.Fields(env) {
				if key, value, _ := strings.Cut(kv, "="); key == name {
					return value
				}
			}
			return ""
		}
		if got := capable(100, getenv); !cmp.Equal(got, want) {
			t.Errorf("%q: %+v, want %+v", env, got, want)
		}
	}
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer other.Close()
	for _, w := range []io.Writer{new(bytes.Buffer), other} {
		if got := Detect(w, func(string) string { return "xterm" }); !cmp.Equal(got, Options{}) {
			t.Errorf("%T is taken for a terminal: %+v", w, got)
		}
	}
}

func TestFormats(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 102400: "100 KiB", 1023 << 10: "1.0 MiB",
		1<<20 - 1: "1.0 MiB", 22439526: "21.4 MiB", 279 << 20: "279 MiB", 5 << 30: "5.0 GiB", 1<<63 - 1: "8.0 EiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0 ms", 340 * time.Millisecond: "340 ms", 999600 * time.Microsecond: "1.0 s", 12345 * time.Millisecond: "12.3 s",
		59960 * time.Millisecond: "1 min 00 s", 125 * time.Second: "2 min 05 s", time.Hour - time.Millisecond: "1 h 00 min", 62 * time.Minute: "1 h 02 min"} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %s, want %s", d, got, want)
		}
	}
	var out bytes.Buffer
	if err := Table(&out, [][]string{{"root", "squashfs", "279 MiB"}, {"initramfs", "", "5.9 MiB"}}); err != nil {
		t.Fatal(err)
	}
	if want := "root       squashfs  279 MiB\ninitramfs            5.9 MiB\n"; out.String() != want {
		t.Errorf("%s", out.String())
	}
}

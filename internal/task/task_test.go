package task

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// journal notes in which order things happen.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, " ")
}

// slow is a task that is ready after a while and takes as long to end.
func (j *journal) slow(name string, takes time.Duration) Task {
	return Task{Name: name, Run: func(ctx context.Context, ready func()) error {
		j.add("+" + name)
		time.Sleep(takes) // of a bubble's clock
		j.add("!" + name)
		ready()
		<-ctx.Done()
		time.Sleep(takes)
		j.add("-" + name)
		return nil
	}}
}

func TestStagesStartAndEndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		g := NewGroup(Stage{j.slow("a", 3*time.Second), j.slow("b", time.Second)}, Stage{j.slow("c", time.Second)})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- g.Run(ctx) }()
		synctest.Wait()
		if s := g.Status(); s[0].State != Starting || s[2].State != Waiting || g.IsReady() {
			t.Errorf("at the start: %+v", s)
		}
		<-g.Ready()
		if s := g.Status(); !g.IsReady() || s[2].State != Ready || s[2].Since.IsZero() {
			t.Errorf("when ready: %+v", s)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		got := strings.ReplaceAll(j.String(), "+b +a", "+a +b")
		if want := "+a +b !b !a +c !c -c -b -a"; got != want {
			t.Errorf("order %q, want %q", got, want)
		}
		if s := g.Status(); s[0].State != Ended || g.IsReady() {
			t.Errorf("at the end: %+v", s)
		}
	})
}

func TestFailureEndsTheGroupAndNamesTheTask(t *testing.T) {
	broken := errors.New("broken")
	for name, fail := range map[string]func(context.Context, func()) error{
		"an error before it is ready": func(context.Context, func()) error { return broken },
		"an error when it is ready":   func(_ context.Context, ready func()) error { ready(); return broken },
		"no error, too early":         func(_ context.Context, ready func()) error { ready(); return nil },
	} {
		synctest.Test(t, func(t *testing.T) {
			var j journal
			g := NewGroup(Stage{j.slow("first", time.Second)}, Stage{{Name: "second", Run: fail}}, Stage{j.slow("third", time.Second)})
			err := g.Run(t.Context())
			if err == nil || !strings.HasPrefix(err.Error(), "second: ") {
				t.Errorf("%s: error %v", name, err)
			}
			if s := g.Status(); s[0].State != Ended || s[1].State != Failed || s[1].Error != err.Error() {
				t.Errorf("%s: %+v", name, s)
			}
			if !strings.HasSuffix(j.String(), "-first") {
				t.Errorf("%s: the others were not ended: %s", name, j.String())
			}
		})
	}
}

// An end that comes while the group starts does not wait for what was not started.
func TestEndWhileStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		ctx, cancel := context.WithCancel(t.Context())
		g := NewGroup(Stage{{Name: "hangs", Run: func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }}}, Stage{j.slow("never", 0)})
		time.AfterFunc(time.Second, cancel)
		if err := g.Run(ctx); err != nil || j.String() != "" {
			t.Errorf("%v, %q", err, j.String())
		}
		select {
		case <-g.Ready():
			t.Error("ready")
		default:
		}
	})
}

func TestNamesAreUnique(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("two tasks of one name were accepted")
		}
	}()
	NewGroup(Stage{{Name: "a"}}, Stage{{Name: "a"}})
}

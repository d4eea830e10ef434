package accept

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// written is a connection that keeps what each Write was given.
type written struct {
	net.Conn
	fail error

	mu  sync.Mutex
	all []string
}

func (w *written) SetWriteDeadline(time.Time) error { return nil }

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, string(b))
	return len(b), w.fail
}

func (w *written) sofar() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

func TestReplies(t *testing.T) {
	large := strings.Repeat("L", heldReply+1)
	half := strings.Repeat("h", heldReply)
	hold, now := func(r *Replies) error { return r.Hold(true) }, func(r *Replies) error { return r.Hold(false) }
	send := func(s string) func(*Replies) error {
		return func(r *Replies) error { return r.Send([]byte(s)) }
	}
	for name, tt := range map[string]struct {
		do   []func(*Replies) error
		want []string
	}{
		"at once":                {[]func(*Replies) error{send("a"), now, send("b")}, []string{"a", "b"}},
		"held":                   {[]func(*Replies) error{hold, send("a"), hold, send("b")}, nil},
		"held and sent":          {[]func(*Replies) error{hold, send("a"), send("b"), now, send("c")}, []string{"ab", "c"}},
		"nothing was held":       {[]func(*Replies) error{hold, now, now}, nil},
		"a large one among them": {[]func(*Replies) error{hold, send("a"), send(large), send("b"), now}, []string{"a", large, "b"}},
		"many":                   {[]func(*Replies) error{hold, send(half), send("a"), send("b"), now}, []string{half + "a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // where no time passes
				w := &written{}
				r := NewReplies(w, "client")
				for _, f := range tt.do {
					if err := f(r); err != nil {
						t.Fatal(err)
					}
				}
				if !slices.Equal(w.all, tt.want) {
					t.Errorf("wrote %.20q, want %.20q", w.all, tt.want)
				}
			})
		})
	}
}

func TestRepliesAreCopiedWhenHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &written{}
		r := NewReplies(w, "client")
		r.Hold(true)
		b := []byte("reply")
		r.Send(b)
		copy(b, "other")
		if r.Hold(false); !slices.Equal(w.all, []string{"reply"}) {
			t.Errorf("wrote %q", w.all)
		}
		if r.held != nil {
			t.Error("keeps a buffer while it holds nothing")
		}
	})
}

// TestRepliesFail: after half of a reply nothing more is sent, for it would be taken for the other
// half.
func TestRepliesFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		large := make([]byte, heldReply+1)
		for name, do := range map[string]func(r *Replies) error{
			"at once":             func(r *Replies) error { return r.Send(large) },
			"held":                func(r *Replies) error { r.Hold(true); r.Send([]byte("a")); return r.Hold(false) },
			"held before a large": func(r *Replies) error { r.Hold(true); r.Send([]byte("a")); return r.Send(large) },
		} {
			w := &written{fail: broken}
			r := NewReplies(w, "client")
			if err := do(r); !errors.Is(err, broken) {
				t.Errorf("%s: %v", name, err)
			}
			w.fail = nil
			r.Hold(false)
			if err := r.Send([]byte("b")); !errors.Is(err, broken) || len(w.all) != 1 {
				t.Errorf("%s: then %v, wrote %.20q", name, err, w.all)
			}
		}
	})
}

// TestStream: nothing else is sent between the pieces of a reply, and what was held leaves before
// them.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &written{}
		r := NewReplies(w, "client")
		r.Hold(true)
		r.Send([]byte("held"))
		var sent sync.WaitGroup
		err := r.Stream([]byte("one"), 5, func(left int) ([]byte, error) {
			if left == 5 {
				sent.Go(func() { r.Send([]byte("other")) }) // waits for the mutex, or comes later
				return []byte("two"), nil
			}
			return []byte("3!")[:left], nil
		})
		r.Hold(false)
		sent.Wait()
		if want := []string{"held", "one", "two", "3!", "other"}; err != nil || !slices.Equal(w.sofar(), want) {
			t.Errorf("%v, wrote %q", err, w.sofar())
		}
		broken := errors.New("broken")
		if err := r.Stream([]byte("one"), 5, func(int) ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
			t.Error(err)
		}
		if err := r.Send([]byte("rest?")); !errors.Is(err, broken) || len(w.sofar()) != 6 {
			t.Errorf("after half of a reply: %v, wrote %q", err, w.sofar())
		}
		if err := r.Stream([]byte("again"), 5, nil); !errors.Is(err, broken) {
			t.Error(err)
		}
	})
}

// TestRepliesAreNotHeldLong: whatever the reader of requests waits for.
func TestRepliesAreNotHeldLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &written{}
		r := NewReplies(w, "client")
		r.Hold(true)
		for _, want := range []string{"ab", "c"} {
			for _, c := range want {
				r.Send([]byte(string(c)))
			}
			time.Sleep(heldTime - 1)
			if slices.Contains(w.sofar(), want) {
				t.Errorf("%q was not held", want)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if all := w.sofar(); !slices.Contains(all, want) {
				t.Errorf("%q was not sent: %q", want, all)
			}
		}
	})
}

// TestHoldDoesNotWait: a reply on its way over a slow link does not keep the next request from
// being read.
func TestHoldDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		r := NewReplies(near, "client")
		var sent sync.WaitGroup
		sent.Go(func() { r.Send([]byte("slow")) })
		synctest.Wait()
		begin := time.Now()
		if err := errors.Join(r.Hold(false), r.Hold(true)); err != nil || time.Since(begin) != 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		far.Close()
		sent.Wait()
	})
}

func TestRepliesToWhoTakesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		begin := time.Now()
		err := NewReplies(near, "host").Send(bytes.Repeat([]byte("a"), 10))
		if d := time.Since(begin); err == nil || err.Error() != "the host took no data for 1m0s" || d != Stall {
			t.Errorf("%v after %v", err, d)
		}
	})
}

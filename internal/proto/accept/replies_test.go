package accept

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// written is a connection that keeps what each Write was given.
type written struct {
	net.Conn
	all  []string
	fail error
}

func (w *written) SetWriteDeadline(time.Time) error { return nil }

func (w *written) Write(b []byte) (int, error) {
	w.all = append(w.all, string(b))
	return len(b), w.fail
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
	}
}

func TestRepliesAreCopiedWhenHeld(t *testing.T) {
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
}

func TestRepliesFail(t *testing.T) {
	broken := errors.New("broken")
	r := NewReplies(&written{fail: broken}, "client")
	if err := r.Send([]byte("a")); !errors.Is(err, broken) {
		t.Errorf("send: %v", err)
	}
	r.Hold(true)
	if err := r.Send([]byte("a")); err != nil {
		t.Errorf("held: %v", err)
	}
	if err := r.Hold(false); !errors.Is(err, broken) {
		t.Errorf("what was held: %v", err)
	}
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

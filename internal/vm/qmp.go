package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// QMP is a client of qemu's machine protocol (QEMU, docs/interop/qmp-spec). Several goroutines may
// call its methods at once.
type QMP struct {
	conn    net.Conn
	greeted chan struct{} // closed when qemu has sent its greeting
	events  chan Event
	dead    chan struct{} // closed when the connection has ended

	mu      sync.Mutex
	next    int
	waiting map[int]chan<- qmpMessage // by the id of the command
}

// Event is an event of the machine: "SHUTDOWN", "RESET", "STOP", "GUEST_PANICKED".
type Event struct {
	Name string
	Data json.RawMessage
	Time time.Time
}

// ErrQMPClosed means that qemu has ended or closed the connection.
var ErrQMPClosed = errors.New("qemu has closed its monitor connection")

type qmpMessage struct {
	Greeting *struct{}       `json:"QMP"`
	ID       *int            `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	Time  struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// eventQueue is the number of events that wait for a reader. Further events are dropped, because
// most users never read them.
const eventQueue = 64

func newQMP(conn net.Conn) *QMP {
	q := &QMP{
		conn: conn, greeted: make(chan struct{}), events: make(chan Event, eventQueue),
		dead: make(chan struct{}), waiting: make(map[int]chan<- qmpMessage),
	}
	go q.read()
	return q
}

// read delivers qemu's messages to their receivers.
func (q *QMP) read() {
	defer close(q.dead)
	defer close(q.events)
	dec := json.NewDecoder(q.conn)
	greet := sync.OnceFunc(func() { close(q.greeted) })
	for {
		var m qmpMessage
		if dec.Decode(&m) != nil {
			return
		}
		switch {
		case m.Greeting != nil:
			greet()
		case m.Event != "":
			select {
			case q.events <- Event{m.Event, m.Data, time.Unix(m.Time.Seconds, m.Time.Microseconds*1000)}:
			default:
			}
		case m.ID != nil:
			q.mu.Lock()
			reply := q.waiting[*m.ID]
			delete(q.waiting, *m.ID)
			q.mu.Unlock()
			if reply != nil {
				reply <- m
			}
		}
	}
}

// handshake waits for the greeting and leaves the negotiation mode, in which qemu accepts no other
// command.
func (q *QMP) handshake(ctx context.Context) error {
	select {
	case <-q.greeted:
		return q.Do(ctx, "qmp_capabilities", nil, nil)
	case <-q.dead:
		return ErrQMPClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Events returns the channel of events. It is closed when qemu ends.
func (q *QMP) Events() <-chan Event { return q.events }

// Do sends a command, waits for its answer, and decodes the answer into result. arguments and
// result may be nil. The error has qemu's text, or is ErrQMPClosed.
func (q *QMP) Do(ctx context.Context, command string, arguments, result any) error {
	reply := make(chan qmpMessage, 1)
	q.mu.Lock()
	q.next++
	id := q.next
	q.waiting[id] = reply
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		delete(q.waiting, id)
		q.mu.Unlock()
	}()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int    `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return fmt.Errorf("qemu command %s: %w", command, err)
	}
	if _, err := q.conn.Write(append(line, '\n')); err != nil {
		return ErrQMPClosed
	}
	select {
	case m := <-reply:
		return m.decode(command, result)
	case <-q.dead:
		return ErrQMPClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m qmpMessage) decode(command string, result any) error {
	if m.Error != nil {
		return fmt.Errorf("qemu command %s: %s", command, m.Error.Desc)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qemu command %s: %w", command, err)
	}
	return nil
}

// Status returns the state of the machine as qemu names it: "running", "paused", "prelaunch",
// "shutdown", "internal-error".
func (q *QMP) Status(ctx context.Context) (string, error) {
	var s struct {
		Status string `json:"status"`
	}
	err := q.Do(ctx, "query-status", nil, &s)
	return s.Status, err
}

// PowerDown presses the machine's power button. The machine decides how it reacts.
func (q *QMP) PowerDown(ctx context.Context) error { return q.Do(ctx, "system_powerdown", nil, nil) }

// Quit ends qemu. It is not an error if qemu ends before it answers.
func (q *QMP) Quit(ctx context.Context) error {
	if err := q.Do(ctx, "quit", nil, nil); err != nil && !errors.Is(err, ErrQMPClosed) {
		return err
	}
	return nil
}

// Close closes the connection. The machine continues.
func (q *QMP) Close() error { return q.conn.Close() }

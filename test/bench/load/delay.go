package load

import (
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// delayed is a connection on which what is written leaves later.
type delayed struct {
	net.Conn
	after time.Duration
	once  sync.Once
	way   chan packet
	gone  chan struct{}
}

type packet struct {
	due time.Time
	b   []byte
}

// Delay has requests leave that long after they were sent.
func (c *Conn) Delay(by time.Duration) {
	if by == 0 {
		return
	}
	d := &delayed{Conn: c.Conn, after: by, way: make(chan packet, 64), gone: make(chan struct{})}
	go d.deliver()
	c.Conn = d
	c.w.Reset(d)
}

func (d *delayed) Write(b []byte) (int, error) {
	select {
	case d.way <- packet{time.Now().Add(d.after), append([]byte(nil), b...)}:
		return len(b), nil
	case <-d.gone:
		return 0, net.ErrClosed
	}
}

// deliver sends what is on the way. The other end notices an error: it gets no answer.
func (d *delayed) deliver() {
	for {
		select {
		case p := <-d.way:
			if left := time.Until(p.due); left > 0 {
				// Go's own timers are as coarse as a millisecond while a program is idle.
				t := unix.NsecToTimespec(left.Nanoseconds())
				unix.Nanosleep(&t, nil)
			}
			d.Conn.Write(p.b)
		case <-d.gone:
			return
		}
	}
}

func (d *delayed) Close() error {
	d.once.Do(func() { close(d.gone) })
	return d.Conn.Close()
}

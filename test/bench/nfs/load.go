package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The load client keeps a number of calls in progress on a connection, and checks only whether a
// reply is a successful one. RFC 5531 and RFC 1813 have the numbers.

var be = binary.BigEndian

const (
	programNFS   = 100003
	programMount = 100005
	procGetattr  = 1
	procLookup   = 3
	procRead     = 6
	lastFragment = 1 << 31
	replyHead    = 28 // bytes of an accepted reply and the status after it
	markSize     = 4
)

func opaque(b, v []byte) []byte {
	b = be.AppendUint32(b, uint32(len(v)))
	b = append(b, v...)
	return append(b, make([]byte, -len(v)&3)...)
}

// callTo returns the record of a call by root.
func callTo(prog, proc uint32, args []byte) []byte {
	b := be.AppendUint32(nil, 0)
	for _, v := range []uint32{0, 0, 2, prog, 3, proc, 1} {
		b = be.AppendUint32(b, v)
	}
	b = opaque(b, make([]byte, 20)) // AUTH_SYS: stamp, machine, user, group, no further groups
	b = be.AppendUint64(b, 0)
	b = append(b, args...)
	be.PutUint32(b, lastFragment|uint32(len(b)-markSize))
	return b
}

// conn is a connection to a server.
type conn struct {
	nc net.Conn
	r  *bufio.Reader
	w  *bufio.Writer
}

func dial(port string) (*conn, error) {
	nc, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	return &conn{nc, bufio.NewReaderSize(nc, 256<<10), bufio.NewWriterSize(nc, 64<<10)}, nil
}

// reply reads a reply. If keep is set, it returns what follows the status.
func (c *conn) reply(keep bool) (rest []byte, size int, err error) {
	head, err := c.r.Peek(markSize + replyHead)
	if err != nil {
		return nil, 0, err
	}
	size = int(be.Uint32(head) &^ lastFragment)
	for _, at := range []int{8, 12, 16, 20, 24} { // the reply and its authentication
		want := uint32(0)
		if at == 8 {
			want = 1
		}
		if got := be.Uint32(head[at:]); at != 16 && got != want {
			return nil, 0, fmt.Errorf("word %d of a reply is %d", at/4, got)
		}
	}
	if status := be.Uint32(head[28:]); status != 0 {
		return nil, 0, fmt.Errorf("status %d", status)
	}
	c.r.Discard(markSize + replyHead)
	n := size - replyHead
	if !keep {
		_, err = c.r.Discard(n)
		return nil, size, err
	}
	rest = make([]byte, n)
	_, err = io.ReadFull(c.r, rest)
	return rest, size, err
}

// once makes one call.
func (c *conn) once(prog, proc uint32, args []byte) ([]byte, error) {
	c.w.Write(callTo(prog, proc, args))
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	rest, _, err := c.reply(true)
	return rest, err
}

// handle splits the first handle off a result.
func handle(rest []byte) ([]byte, error) {
	if len(rest) < 4 || len(rest) < 4+int(be.Uint32(rest)) {
		return nil, errors.New("a result without a handle")
	}
	return rest[4 : 4+be.Uint32(rest)], nil
}

// mount returns the handle of an export's directory.
func mount(port, path string) ([]byte, error) {
	c, err := dial(port)
	if err != nil {
		return nil, err
	}
	defer c.nc.Close()
	rest, err := c.once(programMount, 1, opaque(nil, []byte(path)))
	if err != nil {
		return nil, fmt.Errorf("mount of %s: %w", path, err)
	}
	return handle(rest)
}

func (c *conn) lookup(dir []byte, name string) ([]byte, error) {
	rest, err := c.once(programNFS, procLookup, opaque(opaque(nil, dir), []byte(name)))
	if err != nil {
		return nil, fmt.Errorf("lookup of %s: %w", name, err)
	}
	return handle(rest)
}

// load is a kind of calls. ith returns the record of one of them.
type load struct {
	ith   func(i int) []byte
	depth int // calls in progress on each connection
	conns int
}

// fixed returns a load that repeats one call.
func fixed(call []byte, depth, conns int) load {
	return load{func(int) []byte { return call }, depth, conns}
}

// run runs a load on a server for a time, and returns calls and bytes of replies per second.
func (l load) run(port string, d time.Duration) (calls, bytes float64, err error) {
	var all sync.WaitGroup
	var mu sync.Mutex
	begin := time.Now()
	for n := range l.conns {
		all.Go(func() {
			k, b, e := l.connection(port, n<<32, begin.Add(d))
			mu.Lock()
			defer mu.Unlock()
			calls, bytes = calls+float64(k), bytes+float64(b)
			err = errors.Join(err, e)
		})
	}
	all.Wait()
	took := time.Since(begin).Seconds()
	return calls / took, bytes / took, err
}

func (l load) connection(port string, first int, until time.Time) (calls, bytes int, err error) {
	c, err := dial(port)
	if err != nil {
		return 0, 0, err
	}
	defer c.nc.Close()
	c.nc.SetDeadline(until.Add(time.Minute))
	sent := 0
	for ; sent < l.depth; sent++ {
		c.w.Write(l.ith(first + sent))
	}
	for calls < sent {
		if c.r.Buffered() == 0 {
			if err := c.w.Flush(); err != nil {
				return 0, 0, err
			}
		}
		_, n, err := c.reply(false)
		if err != nil {
			return 0, 0, err
		}
		calls, bytes = calls+1, bytes+n
		if sent&15 != 0 || time.Now().Before(until) {
			c.w.Write(l.ith(first + sent))
			sent++
		}
	}
	return calls, bytes, nil
}

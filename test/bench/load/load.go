// Package load has clients of NBD, NVMe/TCP, iSCSI, NFS and HTTP that read as fast as a server
// answers, all of one shape, so that protocols can be measured beside each other. Use them to read from our own
// servers only: an answer that is not what they expect is an error, and no byte of the data is
// looked at.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// Conn is one connection over which reads go.
type Conn struct {
	wire
	net.Conn
	r      *bufio.Reader
	w      *bufio.Writer
	Blocks int64 // of the disk, 4 KiB each

	nowhere []byte
	last    []byte // what was read into it last
}

// wire is a protocol's way to read.
type wire interface {
	// ask appends the request for n bytes at off to c.w.
	ask(c *Conn, off int64, n int) error
	// answer reads the answer to any read of n bytes.
	answer(c *Conn, n int) error
}

const (
	block     = 4096
	readAhead = 16 << 10 // what is larger is read past it
)

func newConn(nc net.Conn, w wire, size int64) *Conn {
	return &Conn{wire: w, Conn: nc, r: bufio.NewReaderSize(nc, readAhead), w: bufio.NewWriter(nc), Blocks: size / block}
}

// Read reads n bytes at off.
func (c *Conn) Read(off int64, n int) error {
	return errors.Join(c.ask(c, off, n), c.w.Flush(), c.answer(c, n))
}

// Ask asks for count reads of n bytes each from the beginning of the disk, and leaves the answers.
func (c *Conn) Ask(count, n int) error {
	for i := range int64(count) {
		if err := c.ask(c, i%(c.Blocks*block/int64(n))*int64(n), n); err != nil {
			return err
		}
	}
	return c.w.Flush()
}

// Reset ends the connection at once, with all that is under way.
func (c *Conn) Reset() {
	if t, ok := c.Conn.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// skip reads n bytes into nowhere, by the same copy that a real client makes.
func (c *Conn) skip(n int) error {
	if n > len(c.nowhere) {
		c.nowhere = make([]byte, n)
	}
	if n > 0 {
		c.last = c.nowhere[:n]
	}
	_, err := io.ReadFull(c.r, c.nowhere[:n])
	return err
}

// Pattern is how a client reads.
type Pattern struct {
	Bytes  int // of each read
	Depth  int // reads under way on each connection
	Random bool
	For    time.Duration
}

// Result is what came of a Run.
type Result struct {
	Reads    int
	Rate     float64       // reads a second
	P50, P99 time.Duration // half of the reads, and all but a hundredth, took no longer
}

// Run reads by the pattern over all connections at once.
func Run(ctx context.Context, conns []*Conn, p Pattern) (r Result, err error) {
	took := make([][]time.Duration, len(conns))
	begin := time.Now()
	all, ctx := errgroup.WithContext(ctx)
	for i, c := range conns {
		all.Go(func() (err error) {
			took[i], err = c.run(ctx, p, begin.Add(p.For))
			return err
		})
	}
	err = all.Wait()
	r.Rate = 1 / time.Since(begin).Seconds()
	every := slices.Concat(took...)
	r.Reads = len(every)
	r.Rate *= float64(r.Reads)
	if slices.Sort(every); r.Reads > 0 {
		r.P50, r.P99 = every[r.Reads/2], every[r.Reads*99/100]
	}
	return r, err
}

// run returns how long each read took, from when it was asked for to its answer.
func (c *Conn) run(ctx context.Context, p Pattern, end time.Time) (took []time.Duration, err error) {
	steps := c.Blocks / int64(p.Bytes/block)
	next := func(i int) int64 {
		if p.Random {
			return rand.N(steps) * int64(p.Bytes)
		}
		return int64(i) % steps * int64(p.Bytes)
	}
	asked := make([]time.Time, 0, p.Depth) // and not answered; a ring of Depth
	ask := func(i int) error {
		now := time.Now()
		if i < p.Depth {
			asked = append(asked, now)
		} else {
			asked[i%p.Depth] = now
		}
		return c.ask(c, next(i), p.Bytes)
	}
	sent := 0
	for ; sent < p.Depth; sent++ {
		if err := ask(sent); err != nil {
			return nil, err
		}
	}
	for len(took) < sent {
		if err := c.w.Flush(); err != nil {
			return took, err
		}
		if err := c.answer(c, p.Bytes); err != nil {
			return took, fmt.Errorf("read %d: %w", len(took), err)
		}
		now := time.Now()
		took = append(took, now.Sub(asked[len(took)%p.Depth]))
		if ctx.Err() == nil && now.Before(end) {
			if err := ask(sent); err != nil {
				return took, err
			}
			sent++
		}
	}
	return took, ctx.Err()
}

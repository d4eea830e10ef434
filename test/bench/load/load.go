// Package load has clients of NBD and NVMe/TCP that read as fast as a server answers, both of one shape, so that two
// protocols can be measured beside each other. They are good for reading from our own servers and nothing else: an
// answer that is not what they expect is an error, and no byte of the data is looked at.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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

// Run reads by the pattern over all connections at once, and returns the reads a second.
func Run(ctx context.Context, conns []*Conn, p Pattern) (float64, error) {
	var total int
	counts := make([]int, len(conns))
	begin := time.Now()
	all, ctx := errgroup.WithContext(ctx)
	for i, c := range conns {
		all.Go(func() (err error) {
			counts[i], err = c.run(ctx, p, begin.Add(p.For))
			return err
		})
	}
	err := all.Wait()
	took := time.Since(begin).Seconds()
	for _, n := range counts {
		total += n
	}
	return float64(total) / took, err
}

func (c *Conn) run(ctx context.Context, p Pattern, end time.Time) (done int, err error) {
	steps := c.Blocks / int64(p.Bytes/block)
	next := func(i int) int64 {
		if p.Random {
			return rand.N(steps) * int64(p.Bytes)
		}
		return int64(i) % steps * int64(p.Bytes)
	}
	asked := 0
	for ; asked < p.Depth; asked++ {
		if err := c.ask(c, next(asked), p.Bytes); err != nil {
			return 0, err
		}
	}
	for done < asked {
		if err := c.w.Flush(); err != nil {
			return 0, err
		}
		if err := c.answer(c, p.Bytes); err != nil {
			return 0, fmt.Errorf("read %d: %w", done, err)
		}
		done++
		if ctx.Err() == nil && time.Now().Before(end) {
			if err := c.ask(c, next(asked), p.Bytes); err != nil {
				return 0, err
			}
			asked++
		}
	}
	return done, ctx.Err()
}

// Command abuse measures what hostile clients cost our servers: the processor time of a burst of
// large requests whose clients then reset, and how fast another machine reads beside clients that
// do harm, against the same reader alone a moment before. The clients that do harm come from
// another address of loopback than the reader.
//
//	go run ./test/bench/abuse -transport nbd
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/term"
	"netroot/test/bench/beside"
	"netroot/test/bench/load"
)

// protocol is a server of ours, and how it is read from.
type protocol struct {
	transport handoff.Transport
	largest   int // bytes that one request may ask for
	depth     int // reads of the reader under way
}

// protocols have the largest requests that each protocol of ours admits. A file over HTTP has no
// such limit; it is asked for as large as NBD has it.
var protocols = []protocol{
	{handoff.NBD, 32 << 20, 4},
	{handoff.NVMe, 1 << 20, 4},
	{handoff.ISCSI, 65535 * 512 &^ 4095, 1}, // READ (10); the client has one command at a time
	{handoff.NFS, 1 << 20, 4},
	{handoff.HTTP, 32 << 20, 4},
}

const (
	burstConns = 100 // that ask for burstReads largest requests each
	burstReads = 36
	idleConns  = 4100 // more than any server of ours but HTTP takes in all
	readBytes  = 4096 // of each read of the reader
	settle     = 500 * time.Millisecond
)

var (
	stranger = netip.MustParseAddr("127.0.0.2") // from where harm comes
	reader   = netip.MustParseAddr("127.0.0.3")
)

func main() {
	transport := flag.String("transport", "", "only this one: nbd, nvme, iscsi, nfs or http")
	b := beside.Bench{Title: "hostile clients", Size: 64, Rounds: 3, Seconds: 2}
	os.Exit(b.Main(func(ctx context.Context, b beside.Bench) error { return run(ctx, b, handoff.Transport(*transport)) }))
}

func run(ctx context.Context, b beside.Bench, only handoff.Transport) error {
	// Both ends of many connections, in this process and in the server that it starts.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 20000, Max: 20000}); err != nil {
		return fmt.Errorf("allow 20000 open files: %w", err)
	}
	dir, err := os.MkdirTemp("", "netroot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "disk")
	if err := beside.Fill(file, b.Size); err != nil {
		return err
	}
	rows := [][]string{{"SERVER", "BURST, THEN RESET", "BESIDE: RESETS", "UNREAD", "SILENT", "ATTACHED"}}
	for _, p := range protocols {
		if only != "" && p.transport != only {
			continue
		}
		if p.transport == handoff.NFS && os.Getuid() != 0 {
			fmt.Println("nfs is skipped: its server requires root")
			continue
		}
		row, err := p.measure(ctx, b, file)
		if err != nil {
			return fmt.Errorf("%s: %w", p.transport, err)
		}
		rows = append(rows, append([]string{string(p.transport)}, row...))
	}
	fmt.Printf("%d connections, each %d of the largest reads: processor time of the server until it is quiet.\n", burstConns, burstReads)
	fmt.Printf("Then reads of %d bytes a second of another machine, and their part of those without the harm; medians of %d rounds.\n\n", readBytes, b.Rounds)
	return term.Table(os.Stdout, rows)
}

// measure returns a row of the table.
func (p protocol) measure(ctx context.Context, b beside.Bench, file string) ([]string, error) {
	t, err := beside.Netroot(b.Netroot, p.transport).Start(ctx, file)
	if err != nil {
		return nil, err
	}
	defer t.Stop()
	s := &server{p, t.URL, int64(b.Size) << 20, time.Duration(b.Seconds) * time.Second}
	var cpu []float64
	for range b.Rounds {
		before := quiet(t)
		if err := s.burst(ctx, true); err != nil {
			return nil, fmt.Errorf("burst: %w", err)
		}
		cpu = append(cpu, quiet(t)-before)
	}
	row := []string{fmt.Sprintf("%.2f s", median(cpu))}
	for _, h := range []harm{s.resets, s.unread, s.silent, s.attached} {
		var rate, part []float64
		for range b.Rounds {
			alone, err := s.read(ctx)
			if err != nil {
				return nil, fmt.Errorf("read: %w", err)
			}
			beside, err := s.beside(ctx, h)
			if err != nil {
				return nil, err
			}
			rate, part = append(rate, beside), append(part, beside/alone)
			quiet(t)
		}
		row = append(row, fmt.Sprintf("%.0f (%.2f)", median(rate), median(part)))
	}
	return row, nil
}

// quiet waits until a server takes no processor time, and returns what it has taken.
func quiet(t *beside.Target) float64 {
	for before := -1.0; ; {
		now := t.CPU()
		if now == before {
			return now
		}
		before = now
		time.Sleep(settle) // that it does nothing in that time is what is asked
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// server is what clients know of a server.
type server struct {
	protocol
	where string
	size  int64
	time  time.Duration
}

// harm does something until ctx ends. It calls ready when the reader may begin.
type harm func(ctx context.Context, ready func()) error

// beside reads while harm is done.
func (s *server) beside(ctx context.Context, h harm) (rate float64, err error) {
	g, ctx := errgroup.WithContext(ctx)
	doing, stop := context.WithCancel(ctx)
	began := make(chan struct{})
	g.Go(func() error { return h(doing, func() { close(began) }) })
	g.Go(func() (err error) {
		defer stop()
		select {
		case <-began:
		case <-ctx.Done():
			return ctx.Err()
		}
		rate, err = s.read(ctx)
		return err
	})
	return rate, g.Wait()
}

// read connects as a machine that has done no harm, and returns its reads per second.
func (s *server) read(ctx context.Context) (rate float64, err error) {
	conns, hangUp, err := load.Connect(load.From(ctx, reader), s.transport, s.where, 1, s.size)
	defer hangUp()
	if err != nil {
		return 0, fmt.Errorf("a machine that has done no harm cannot connect: %w", err)
	}
	r, err := load.Run(ctx, conns, load.Pattern{Bytes: readBytes, Depth: s.depth, For: s.time})
	return r.Rate, err
}

// burst has many clients ask for much. They reset their connections at once, or when ctx ends.
func (s *server) burst(ctx context.Context, reset bool) error {
	conns, hangUp, err := load.Connect(load.From(ctx, stranger), s.transport, s.where, burstConns, s.size)
	defer hangUp()
	if err != nil {
		return err
	}
	for _, c := range conns {
		if err := c.Ask(burstReads, s.largest); err != nil {
			return err
		}
	}
	if !reset {
		<-ctx.Done()
	}
	for _, c := range conns {
		c.Reset()
	}
	return nil
}

// resets is a burst each second.
func (s *server) resets(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := s.burst(ctx, true); err != nil || ctx.Err() != nil {
			return ignore(ctx, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// unread are clients that never read what they have asked for.
func (s *server) unread(ctx context.Context, ready func()) error {
	asked := make(chan error, 1)
	go func() { asked <- s.burst(ctx, false) }()
	select { // what they ask for takes hold
	case err := <-asked:
		return err
	case <-time.After(settle):
	}
	ready()
	return ignore(ctx, <-asked)
}

// silent are connections that never send anything.
func (s *server) silent(ctx context.Context, ready func()) error {
	ctx = load.From(ctx, stranger)
	return s.many(ctx, ready, func() (closer func(), err error) {
		c, err := load.Dial(ctx, s.address())
		if err != nil {
			return nil, err
		}
		return func() { c.Close() }, nil
	})
}

// attached are clients that do nothing more. Those that are refused are gone.
func (s *server) attached(ctx context.Context, ready func()) error {
	ctx = load.From(ctx, stranger)
	return s.many(ctx, ready, func() (closer func(), err error) {
		conns, hangUp, err := load.Connect(ctx, s.transport, s.where, 1, s.size)
		if err == nil && s.transport == handoff.HTTP {
			conns[0].Read(0, readBytes) // an error is that of a connection that was refused
		}
		return hangUp, nil
	})
}

// many makes idleConns connections, and closes them when ctx ends.
func (s *server) many(ctx context.Context, ready func(), connect func() (func(), error)) error {
	closers := make([]func(), idleConns)
	defer func() {
		for _, c := range closers {
			if c != nil {
				c()
			}
		}
	}()
	var g errgroup.Group
	g.SetLimit(16)
	for i := range closers {
		g.Go(func() (err error) {
			if ctx.Err() == nil {
				closers[i], err = connect()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return ignore(ctx, err)
	}
	ready()
	<-ctx.Done()
	return nil
}

// address is HOST:PORT of what the server said of itself.
func (s *server) address() string {
	if s.transport == handoff.NVMe {
		address, _, _ := load.ParseNVMe(s.where)
		return address
	}
	_, rest, _ := strings.Cut(s.where, "://")
	host, query, _ := strings.Cut(rest, "/")
	if s.transport == handoff.NFS {
		_, port, _ := strings.Cut(query, "nfsport=")
		port, _, _ = strings.Cut(port, "&")
		return host + ":" + port
	}
	return host
}

// ignore drops an error that the end of the measure has made.
func ignore(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

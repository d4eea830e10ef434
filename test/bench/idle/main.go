// Command idle measures the memory of servers with many idle connections, each of which has read
// once: NBD, NVMe/TCP, iSCSI and HTTP of ours, and nbdkit, tgtd and nginx beside them.
//
//	go run ./test/bench/idle -connections 500
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"netroot/internal/handoff"
	"netroot/internal/term"
	"netroot/test/bench/beside"
	"netroot/test/bench/load"
)

func main() {
	connections := flag.Int("connections", 500, "idle connections")
	b := beside.Bench{Title: "idle connections", Size: 64}
	os.Exit(b.Main(func(ctx context.Context, b beside.Bench) error { return run(ctx, b, *connections) }))
}

const once = 128 << 10 // bytes that each connection has read

// clients makes n connections that have read, and returns what closes them.
type clients func(ctx context.Context, url string, n int) ([]io.Closer, error)

func run(ctx context.Context, b beside.Bench, n int) error {
	dir, err := os.MkdirTemp("", "netroot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "disk")
	if err := beside.Fill(file, b.Size); err != nil {
		return err
	}
	ours := func(t handoff.Transport) beside.Server { return beside.Netroot(b.Netroot, t) }
	rows := [][]string{{fmt.Sprintf("MEMORY WITH %d IDLE CONNECTIONS", n), "SERVER", "AT FIRST", "THEN", "EACH"}}
	for _, p := range []struct {
		name    string
		connect clients
		servers []beside.Server
	}{
		{"NBD", overNBD, beside.There(ours(handoff.NBD), beside.Nbdkit())},
		{"NVMe/TCP", overNVMe, beside.There(ours(handoff.NVMe))},
		{"iSCSI", overISCSI, beside.There(ours(handoff.ISCSI), beside.Tgtd())},
		{"HTTP", overHTTP, beside.There(ours(handoff.HTTP), beside.Nginx())},
	} {
		for _, s := range p.servers {
			before, after, err := measure(ctx, s, file, p.connect, n)
			if err != nil {
				return fmt.Errorf("%s by %s: %w", p.name, s.Name, err)
			}
			rows = append(rows, []string{p.name, s.Name, term.Size(before), term.Size(after), term.Size((after - before) / int64(n))})
		}
	}
	return term.Table(os.Stdout, rows)
}

func measure(ctx context.Context, s beside.Server, file string, connect clients, n int) (before, after int64, err error) {
	t, err := s.Start(ctx, file)
	if err != nil {
		return 0, 0, err
	}
	defer t.Stop()
	if before, err = t.Resident(); err != nil {
		return 0, 0, err
	}
	conns, err := connect(ctx, t.URL, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	if err != nil {
		return 0, 0, err
	}
	after, err = t.Resident()
	return before, after, err
}

// reading makes n connections, and has each read.
func reading(n int, connect func(i int) (*load.Conn, error)) (conns []io.Closer, err error) {
	for i := range n {
		c, err := connect(i)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		if err := c.Read(0, once); err != nil {
			return conns, err
		}
	}
	return conns, nil
}

func overNBD(ctx context.Context, where string, n int) ([]io.Closer, error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, err
	}
	return reading(n, func(int) (*load.Conn, error) { return load.NBD(ctx, u.Host, strings.TrimPrefix(u.Path, "/")) })
}

// overNVMe makes one admin connection for each I/O connection: two make one node of one processor.
func overNVMe(ctx context.Context, options string, n int) (conns []io.Closer, err error) {
	address, nqn, err := load.ParseNVMe(options)
	if err != nil {
		return nil, err
	}
	var hosts []io.Closer
	queues, err := reading(n/2, func(i int) (*load.Conn, error) {
		h, err := load.NVMe(ctx, address, nqn, i)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
		return h.Queue(ctx, i, 1, 1<<20)
	})
	return append(queues, hosts...), err
}

func overISCSI(ctx context.Context, where string, n int) ([]io.Closer, error) {
	return reading(n, func(i int) (*load.Conn, error) { return load.ISCSI(ctx, where, i) })
}

func overHTTP(ctx context.Context, where string, n int) (conns []io.Closer, err error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, err
	}
	for range n {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		req := &http.Request{Method: "GET", URL: u, Host: u.Host, Header: http.Header{"Range": {fmt.Sprintf("bytes=0-%d", once-1)}}}
		if err := req.Write(c); err != nil {
			return conns, err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), req)
		if err != nil {
			return conns, err
		}
		if got, err := io.Copy(io.Discard, resp.Body); got != once || err != nil {
			return conns, fmt.Errorf("%s: %d bytes, %w", resp.Status, got, err)
		}
	}
	return conns, nil
}

package load

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"netroot/internal/handoff"
)

// Connect makes n connections to a server of a transport, by what it says of itself: a URL, or the
// options of "nvme connect". The disk has so many bytes. hangUp closes them, whatever the error is.
//
// Over NBD, iSCSI, NFS and HTTP each is a client of its own. Over NVMe/TCP they are the I/O queues of as many
// hosts as that takes.
func Connect(ctx context.Context, t handoff.Transport, where string, n int, size int64) (conns []*Conn, hangUp func(), err error) {
	var hosts []*Host
	hangUp = func() {
		for _, c := range conns {
			c.Close()
		}
		for _, h := range hosts {
			h.Close()
		}
	}
	var dial func(i int) (*Conn, error)
	switch t {
	case handoff.NBD:
		u, err := url.Parse(where)
		if err != nil {
			return nil, hangUp, err
		}
		dial = func(int) (*Conn, error) { return NBD(ctx, u.Host, strings.TrimPrefix(u.Path, "/")) }
	case handoff.ISCSI:
		dial = func(i int) (*Conn, error) {
			c, err := ISCSI(ctx, where, i)
			if err == nil {
				c.Blocks = size / block
			}
			return c, err
		}
	case handoff.NVMe:
		address, nqn, err := ParseNVMe(where)
		if err != nil {
			return nil, hangUp, err
		}
		dial = func(i int) (*Conn, error) {
			if i%hostQueues == 0 {
				h, err := NVMe(ctx, address, nqn, i/hostQueues)
				if err != nil {
					return nil, err
				}
				hosts = append(hosts, h)
			}
			return hosts[i/hostQueues].Queue(ctx, i/hostQueues, i%hostQueues+1, size)
		}
	case handoff.NFS:
		dial = func(int) (*Conn, error) { return NFS(ctx, where, size) }
	case handoff.HTTP:
		dial = func(int) (*Conn, error) { return HTTP(ctx, where, size) }
	default:
		return nil, hangUp, fmt.Errorf("no client of %s", t)
	}
	for i := range n {
		c, err := dial(i)
		if err != nil {
			return conns, hangUp, err
		}
		conns = append(conns, c)
	}
	return conns, hangUp, nil
}

const hostQueues = 4 // of one NVMe host

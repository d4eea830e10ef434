package nfs3

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"netroot/internal/proto/accept"
)

// Mapping is the TCP port of an RPC program.
type Mapping struct {
	Program, Version uint32
	Port             uint16
}

// Mappings are those of a Server that listens on a port.
func Mappings(port uint16) []Mapping {
	return []Mapping{{programNFS, nfsVersion, port}, {programMount, mountVersion, port}}
}

// Portmap is a portmapper (RFC 1833, version 2): it tells clients that were given no port, on its
// own port 111, where NFS and MOUNT are. It accepts no registrations. Its fields are set before
// Serve and not changed after it.
type Portmap struct {
	Mappings []Mapping
	Log      *slog.Logger // nil discards

	once     sync.Once
	programs []program
	loop     *accept.Loop
}

const (
	portmapVersion = 2
	protocolTCP    = 6
	portmapConns   = 256
	portmapIdle    = 30 * time.Second
	maxPortmap     = 1 << 10 // bytes of a request
)

// Serve answers on a listener and, when it is not nil, on a UDP socket, until ctx ends; then it
// closes both and returns nil. It returns an error when one of them fails.
func (p *Portmap) Serve(ctx context.Context, l net.Listener, u net.PacketConn) error {
	p.once.Do(p.setup)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var packets sync.WaitGroup
	if u != nil {
		packets.Go(func() {
			if err := p.packets(ctx, u); err != nil {
				cancel(err)
			}
		})
	}
	err := p.loop.Run(ctx, l)
	failed := context.Cause(ctx)
	cancel(nil)
	packets.Wait()
	if err == nil && failed != nil && !errors.Is(failed, context.Canceled) && !errors.Is(failed, context.DeadlineExceeded) {
		err = failed
	}
	return err
}

func (p *Portmap) setup() {
	refuse := func(_ *conn, _ *call, out []byte) []byte { return appendFlag(out, false) }
	p.programs = []program{{programPortmap, portmapVersion, []procedure{
		0: {run: null},
		1: {run: refuse}, // SET
		2: {run: refuse}, // UNSET
		3: {run: p.getport},
		4: {run: p.dump},
	}}}
	p.loop = accept.NewLoop("portmap", accept.Options{Log: p.Log}, accept.Limits{MaxConns: portmapConns})
	p.loop.Serve = p.serve
}

// getport answers GETPORT with a port, or 0 for what is not here. Its own version is not looked at:
// a client learns of the right one from the program itself.
func (p *Portmap) getport(_ *conn, q *call, out []byte) []byte {
	prog, vers, protocol := q.args.u32(), q.args.u32(), q.args.u32()
	q.args.u32() // port: has no meaning here
	var port uint16
	for _, m := range p.Mappings {
		if m.Program == prog && protocol == protocolTCP && (port == 0 || m.Version == vers) {
			port = m.Port
		}
	}
	return appendU32(out, uint32(port))
}

func (p *Portmap) dump(_ *conn, _ *call, out []byte) []byte {
	for _, m := range p.Mappings {
		for _, v := range []uint32{1, m.Program, m.Version, protocolTCP, uint32(m.Port)} {
			out = appendU32(out, v)
		}
	}
	return appendU32(out, 0)
}

// answer returns the record that answers a request, or nil.
func (p *Portmap) answer(request []byte) []byte {
	q, err := parseCall(request)
	if err != nil {
		return nil
	}
	var proc *procedure
	if q.rpc == rpcVersion {
		proc, _ = find(p.programs, &q)
	}
	return respond(p.programs, nil, proc, &q, nil)
}

// packets answers over UDP: a packet is a request, and has no record mark.
func (p *Portmap) packets(ctx context.Context, u net.PacketConn) error {
	defer u.Close()
	defer context.AfterFunc(ctx, func() { u.Close() })()
	buf := make([]byte, maxPortmap)
	for {
		n, peer, err := u.ReadFrom(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("portmap: %s: %w", u.LocalAddr(), err)
		}
		if reply := p.answer(buf[:n]); reply != nil {
			u.WriteTo(reply[recordMark:], peer) // lost like any packet
		}
	}
}

// serve serves one connection.
func (p *Portmap) serve(ctx context.Context, nc *accept.Conn) {
	r := bufio.NewReaderSize(nc, recordMark+maxPortmap)
	for ctx.Err() == nil {
		nc.SetDeadline(time.Now().Add(portmapIdle))
		head, err := r.Peek(recordMark)
		if err != nil {
			return
		}
		n := be.Uint32(head)
		if n&lastFragment == 0 || n&^lastFragment > maxPortmap {
			nc.Refused(errors.New("this is not a request for a portmapper"))
			return
		}
		request := make([]byte, recordMark+int(n&^lastFragment))
		if _, err := io.ReadFull(r, request); err != nil {
			return
		}
		reply := p.answer(request[recordMark:])
		if reply == nil {
			return
		}
		if _, err := nc.Write(reply); err != nil {
			return
		}
	}
}

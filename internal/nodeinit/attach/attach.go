// Package attach brings the root to the node: one file a transport, each with one function of type
// Func. A packed root becomes a block device, and a tree over NFS something to mount.
//
// It does not mount the root and does not stay: the devices whose connection a process has to keep,
// NBD and ISCSI, know how to reconnect, and package keeper is the process that calls them. It reads
// no kernel arguments; a Request says everything.
package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/report"
)

// Func attaches a root by one transport. It makes one attempt with each server and may be called
// again after an error, which leaves nothing behind.
type Func func(context.Context, Request) (*Root, error)

// Request says what to attach.
type Request struct {
	Root   handoff.Root
	HostID string // the node's identity, a UUID, by which servers recognise it
	Report report.Step
}

// Root is an attached root: either a device or a tree.
type Root struct {
	Device string // of a packed root, "/dev/nbd0"
	Tree   *Mount // over NFS
	Said   string // what was attached and from where, for the console

	NBD   *NBD // at most one of these two: its connection needs a keeper
	ISCSI *ISCSI

	detach func() error
}

// Detach gives up what was attached, so that another attempt can begin.
func (r *Root) Detach() error {
	if r.detach == nil {
		return nil
	}
	return r.detach()
}

// Mount is what mount(2) expects.
type Mount struct {
	Source, FSType, Options string
	Flags                   uintptr
}

// For returns the function of a transport; nil if there is none.
func For(t handoff.Transport) Func {
	return map[handoff.Transport]Func{
		handoff.NBD:      attachNBD,
		handoff.NVMe:     attachNVMe,
		handoff.ISCSI:    attachISCSI,
		handoff.NFS:      attachNFS,
		handoff.NFSImage: attachNFSImage,
		handoff.HTTP:     attachHTTP,
	}[t]
}

// addresses are those of the root's servers, each once. Names are resolved now: later, when the
// root's own server is away, there may be no name server to ask. A name without an address is
// reported, and is an error only if no server is left.
func (r Request) addresses(ctx context.Context) ([]string, error) {
	var out []string
	var failures []error
	for _, hp := range r.Root.Addresses() {
		host, port, err := net.SplitHostPort(hp)
		if err != nil {
			return nil, err
		}
		found, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if address := net.JoinHostPort(found[0], port); !slices.Contains(out, address) {
			out = append(out, address)
		}
	}
	if len(out) == 0 {
		return nil, errors.Join(failures...)
	}
	for _, err := range failures {
		r.Report.Fault(err)
	}
	return out, nil
}

// firstServer calls connect with one address after the other until one succeeds.
func firstServer[T any](addresses []string, connect func(address string) (T, error)) (T, error) {
	var failures []error
	for _, address := range addresses {
		v, err := connect(address)
		if err == nil {
			return v, nil
		}
		failures = append(failures, err)
	}
	return *new(T), errors.Join(failures...)
}

const (
	// requestTimeout is how long the kernel waits for a response before it regards the connection
	// as dead. The request itself is not lost.
	requestTimeout = 30 * time.Second
	// connectLimit bounds one attempt to connect and negotiate.
	connectLimit = 15 * time.Second
)

// keepAlive makes connections that the kernel will use. TCP probes an idle one, so that the loss of
// a server is noticed within 25 s.
var keepAlive = net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
	Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3,
}}

// forKernel is the socket of a connection that keepAlive made.
func forKernel(conn net.Conn) (*os.File, error) {
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	// Data that is not acknowledged for this time means that the server is gone. The keepalive
	// probes only an idle connection (tcp(7)).
	unix.SetsockoptInt(int(file.Fd()), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(requestTimeout/time.Millisecond))
	return file, nil
}

// waitHangup blocks until the connection has ended, from either side: the peer closed or reset it,
// TCP timed out, or the kernel's NBD driver gave it up.
func waitHangup(conn *os.File) error {
	return waitAny([]unix.PollFd{{Fd: int32(conn.Fd()), Events: unix.POLLRDHUP}})
}

// waitAny blocks until something has happened to one of the descriptors.
func waitAny(fds []unix.PollFd) error {
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		for _, fd := range fds {
			if err == nil && fd.Revents&unix.POLLNVAL != 0 {
				err = unix.EBADF
			}
		}
		return err
	}
}

func mib[T int64 | uint64](bytes T) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

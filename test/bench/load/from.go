package load

import (
	"context"
	"net"
	"net/netip"
)

type fromKey struct{}

// From returns a context whose clients connect from an address, such as one of 127.0.0.0/8, so that
// they are another machine to the server.
func From(ctx context.Context, a netip.Addr) context.Context {
	return context.WithValue(ctx, fromKey{}, a)
}

// Dial makes a connection by TCP; see From.
func Dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	if a, ok := ctx.Value(fromKey{}).(netip.Addr); ok {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
	}
	return d.DialContext(ctx, "tcp", address)
}

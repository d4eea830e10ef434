package keeper

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/network"
	"netroot/internal/nodeinit/report"
)

// shortestRenewal is the shortest pause between two requests for a lease, whatever its duration is.
const shortestRenewal = 10 * time.Second

// renew extends the lease of an interface, by whatever name the interface has by now.
func renew(ctx context.Context, index int, l *network.Lease) (*network.Lease, error) {
	iface, err := net.InterfaceByIndex(index)
	if err != nil {
		return nil, err
	}
	return network.Renew(ctx, iface.Name, l)
}

// keepLease renews the lease at half of its duration. While that fails, it tries again after each
// tenth of the duration. The interface keeps its address whatever the server says.
func keepLease(ctx context.Context, step report.Step, cfg network.Config, renew func(context.Context, int, *network.Lease) (*network.Lease, error)) {
	l := cfg.Lease
	next := l.Duration / 2
	for l.Duration > 0 {
		devices.Pause(ctx, max(next, shortestRenewal))
		if ctx.Err() != nil {
			return
		}
		renewed, err := renew(ctx, cfg.Index, l)
		if err != nil {
			next = l.Duration / 10
			step.Fault(fmt.Errorf("renew the lease of %s: %s", cfg.Address.Addr(), strings.TrimSpace(err.Error())))
			continue
		}
		l, next = renewed, renewed.Duration/2
		step.Detail(fmt.Sprintf("lease of %s renewed for %s", cfg.Address.Addr(), l.Duration))
	}
}

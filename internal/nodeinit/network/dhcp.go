package network

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"

	"netroot/internal/nodeinit/report"
)

// Lease is what the keeper needs to renew an address.
type Lease struct {
	Server   string
	Offer    []byte // the server's messages, unchanged: RFC 2131 section 2
	ACK      []byte
	Duration time.Duration
	// Anonymous: the lease was requested without a client identifier and is renewed without one.
	Anonymous bool
}

// The attempts of one exchange wait 1, 2, 4, 8 and 16 s for an answer.
const (
	dhcpFirstTimeout = time.Second
	dhcpTries        = 5
)

// requested are the options that are asked for (RFC 2132, RFC 3442 for 121, RFC 3397 for 119).
var requested = []dhcpv4.OptionCode{
	dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionHostName, dhcpv4.OptionDomainName, dhcpv4.OptionInterfaceMTU,
	dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionClasslessStaticRoute,
}

// identify names the node by its hardware address, as its firmware does (RFC 2132 section 9.14), so
// that both get the same address.
func identify(mac []byte) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, mac...)))
}

// dhcp switches an interface on and gets an address for it (RFC 2131).
func dhcp(ctx context.Context, link netlink.Link, out report.Step) (*Config, error) {
	a := link.Attrs()
	if err := linkUp(ctx, link); err != nil {
		return nil, err
	}
	started := time.Now()
	c, err := nclient4.New(a.Name, nclient4.WithTimeout(dhcpFirstTimeout), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, fmt.Errorf("%s: ask for an address: %w", a.Name, err)
	}
	defer c.Close()
	l, err := c.Request(ctx, identify(a.HardwareAddr), dhcpv4.WithRequestedOptions(requested...))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Name, noLease(err, a.HardwareAddr.String(), time.Since(started)))
	}
	cfg, err := fromACK(l.ACK, func(text string) { out.Note(a.Name + ": " + text) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Name, err)
	}
	cfg.Link, cfg.Index, cfg.MAC = a.Name, a.Index, a.HardwareAddr.String()
	cfg.Lease.Offer = l.Offer.ToBytes()
	return cfg, nil
}

// noLease says in our own words why there is no lease.
func noLease(err error, mac string, waited time.Duration) error {
	var nak *nclient4.ErrNak
	switch {
	case errors.As(err, &nak):
		if why := nak.Nak.Message(); why != "" {
			return fmt.Errorf("DHCP server %s refuses an address to %s: %q", nak.Nak.ServerIdentifier(), mac, why)
		}
		return fmt.Errorf("DHCP server %s refuses an address to %s", nak.Nak.ServerIdentifier(), mac)
	case errors.Is(err, nclient4.ErrNoResponse), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no DHCP server answered %s within %s: is one running in this network, and does it serve this machine?",
			mac, waited.Round(time.Second))
	case errors.Is(err, context.Canceled):
		return errors.New("another interface has an address")
	}
	return fmt.Errorf("ask for an address for %s: %w", mac, err)
}

// Renew extends a lease of the interface's address, and returns the new one.
func Renew(ctx context.Context, iface string, l *Lease) (*Lease, error) {
	offer, err := dhcpv4.FromBytes(l.Offer)
	if err != nil {
		return nil, err
	}
	ack, err := dhcpv4.FromBytes(l.ACK)
	if err != nil {
		return nil, err
	}
	c, err := nclient4.New(iface, nclient4.WithTimeout(dhcpFirstTimeout), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	modifiers := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(requested...)}
	if !l.Anonymous {
		modifiers = append(modifiers, identify(ack.ClientHWAddr))
	}
	got, err := c.Renew(ctx, &nclient4.Lease{Offer: offer, ACK: ack}, modifiers...)
	if err != nil {
		return nil, err
	}
	if !got.ACK.YourIPAddr.Equal(ack.YourIPAddr) {
		return nil, fmt.Errorf("the DHCP server offers %s in place of %s: a node keeps the address that its root is attached from",
			got.ACK.YourIPAddr, ack.YourIPAddr)
	}
	return &Lease{Server: l.Server, Offer: l.Offer, ACK: got.ACK.ToBytes(),
		Duration: got.ACK.IPAddressLeaseTime(l.Duration), Anonymous: l.Anonymous}, nil
}

package boot

import "netroot/internal/handoff"

// Ports are the TCP ports on which servers listen, by the transport that names the server (see
// ServerOf). A transport without a port is not served. HTTP needs no entry: the server of the boot
// script has it.
type Ports map[handoff.Transport]uint16

// ServerOf is the transport by which the server of t is known: packed roots as files come from the
// NFS server.
func ServerOf(t handoff.Transport) handoff.Transport {
	if t == handoff.NFSImage {
		return handoff.NFS
	}
	return t
}

// StandardPorts has every server on its standard port.
func StandardPorts() Ports {
	p := Ports{}
	for _, t := range handoff.Transports() {
		if port := t.DefaultPort(); port != 0 {
			p[ServerOf(t)] = port
		}
	}
	return p
}

// SamePort has the servers of these transports on one port.
func SamePort(port uint16, transports ...handoff.Transport) Ports {
	p := Ports{}
	for _, t := range transports {
		p[ServerOf(t)] = port
	}
	return p
}

// Of is the port of the server of t; 0: there is none.
func (p Ports) Of(t handoff.Transport) uint16 { return p[ServerOf(t)] }

// Serves reports whether a root can come over t.
func (p Ports) Serves(t handoff.Transport) bool { return t == handoff.HTTP || p.Of(t) != 0 }

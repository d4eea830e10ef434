package nvmetcp

import (
	"bytes"
	"context"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Log pages (Base, "Log Page Identifiers").
const (
	logSupported    = 0x00
	logErrors       = 0x01
	logHealth       = 0x02
	logFirmware     = 0x03
	logNamespaces   = 0x04
	logEffects      = 0x05
	logANA          = 0x0c
	logFeatureKinds = 0x12
	logDiscovery    = 0x70

	allNamespaces = 0xffffffff
	supported     = 1 << 0 // in the pages that list what is
)

// Which pages the two kinds of controllers have.
var (
	diskLogs      = []uint8{logSupported, logErrors, logHealth, logFirmware, logNamespaces, logEffects, logANA, logFeatureKinds}
	discoveryLogs = []uint8{logSupported, logDiscovery}
)

// logPage answers Get Log Page. What is behind the end of a page is zeroes.
func (c *conn) logPage(ctx context.Context, cmd *command) error {
	size := (int64(cmd.dword(11)&0xffff)<<16 + int64(cmd.dword(10)>>16) + 1) * 4
	off := uint64(cmd.dword(13))<<32 | uint64(cmd.dword(12))
	page, st := c.ctrl.log(ctx, cmd, c.LocalAddr())
	if st == statusSuccess && (size > maxTransfer || off%4 != 0 || off > uint64(page.size)) {
		st = statusField
	}
	return c.give(cmd, page, int64(off), size, st)
}

// log makes the page that cmd asks for; local is the address to which the host is connected.
func (k *controller) log(ctx context.Context, cmd *command, local net.Addr) (padded, status) {
	id := uint8(cmd.dword(10))
	pages := diskLogs
	if k.discovery() {
		pages = discoveryLogs
	}
	if !slices.Contains(pages, id) {
		return padded{}, statusLogPage
	}
	var b []byte
	switch id {
	case logSupported:
		b = make([]byte, 1024)
		for _, page := range pages {
			b[4*int(page)] = supported
		}
	case logErrors: // none of the one that is kept
		b = make([]byte, 64)
	case logHealth:
		if cmd.nsid() != 0 && cmd.nsid() != allNamespaces {
			return padded{}, statusField
		}
		b = k.healthLog()
	case logFirmware:
		b = make([]byte, 512)
		b[0] = 1 // the active slot
		copy(b[8:16], firmware+" ")
	case logNamespaces: // none has changed
		b = make([]byte, 4096)
	case logEffects:
		b = effectsLog()
	case logANA:
		b = anaLog(cmd.dword(10)>>8&1 != 0)
	case logFeatureKinds:
		b = make([]byte, 1024)
		for f := range plainFeatures {
			b[4*int(f)] = supported
		}
		for _, f := range []uint8{featureQueues, featureKeepAlive, featureBehavior, featureHostID} {
			b[4*int(f)] = supported
		}
	case logDiscovery:
		return k.srv.discoveryLog(ctx, local)
	}
	return padded{bytes.NewReader(b), int64(len(b))}, statusSuccess
}

// healthLog is the SMART log: of a disk that does not wear, and has no thermometer.
func (k *controller) healthLog() []byte {
	s := k.session.Session()
	b := make([]byte, 512)
	b[3] = 100                                                // percent of spare
	le.PutUint64(b[32:], (s.ReadBytes+512*1000-1)/(512*1000)) // data units read
	le.PutUint64(b[64:], s.Reads)
	return b
}

func effectsLog() []byte {
	b := make([]byte, 4096)
	for _, op := range []uint8{opGetLogPage, opIdentify, opAbort, opSetFeatures, opGetFeatures, opAsyncEvent, opKeepAlive} {
		b[4*int(op)] = supported
	}
	for _, op := range []uint8{opFlush, opWrite, opRead} {
		b[1024+4*int(op)] = supported
	}
	return b
}

// anaLog says that this path to the disk is as good as any.
func anaLog(groupsOnly bool) []byte {
	b := make([]byte, 16+32, 16+32+4)
	b[8] = 1 // groups
	b[16] = anaGroup
	b[32] = anaOptimized
	if !groupsOnly {
		b[20] = 1 // namespaces of the group
		b = le.AppendUint32(b, namespaceID)
	}
	return b
}

const discoveryRecord = 1024 // bytes, as many as its header has

// discoveryList is the discovery log page: a header and a record for each name, made as they are
// read.
type discoveryList struct {
	names []string
	at    netip.AddrPort
}

// discoveryLog makes the page for a host that is connected to local.
func (s *Server) discoveryLog(ctx context.Context, local net.Addr) (padded, status) {
	var list discoveryList
	if s.List != nil {
		all, err := s.List(ctx)
		if err != nil {
			s.Log.Error("nvmetcp: cannot list subsystems", "why", err)
			return padded{}, statusInternal
		}
		for _, sub := range all {
			list.names = append(list.names, sub.NQN)
		}
	}
	if list.at = s.Advertise; !list.at.IsValid() {
		list.at, _ = netip.ParseAddrPort(local.String())
	}
	return padded{list, int64(len(list.names)+1) * discoveryRecord}, statusSuccess
}

// ReadAt makes the records that p covers.
func (l discoveryList) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		i, skip := (off+int64(n))/discoveryRecord, (off+int64(n))%discoveryRecord
		b := l.record(int(i))
		n += copy(p[n:], b[skip:])
	}
	return len(p), nil
}

// record makes record i, of which 0 is the header (Base, "Discovery Log Page").
func (l discoveryList) record(i int) []byte {
	const (
		tcp, ipv4, ipv6    = 3, 1, 2
		disks              = 2
		withoutFlowControl = 1 << 2
		adminQueue         = 32
		portID             = 1
	)
	b := make([]byte, discoveryRecord)
	if i == 0 {
		le.PutUint64(b, l.generation())
		le.PutUint64(b[8:], uint64(len(l.names)))
		return b
	}
	addr := l.at.Addr().Unmap()
	b[0], b[1], b[2], b[3] = tcp, ipv6, disks, withoutFlowControl
	if addr.Is4() {
		b[1] = ipv4
	}
	le.PutUint16(b[4:], portID)
	le.PutUint16(b[6:], anyController)
	le.PutUint16(b[8:], adminQueue)
	copy(b[32:64], strconv.Itoa(int(l.at.Port())))
	copy(b[256:512], l.names[i-1])
	copy(b[512:768], addr.String())
	return b
}

// generation is a number that changes when the list does, by which a host that reads it in parts
// notices a change between them. It is a digest, so that it means the same after a restart.
func (l discoveryList) generation() uint64 {
	h := fnv.New64a()
	for _, name := range l.names {
		h.Write([]byte(name))
		h.Write([]byte{0})
	}
	return h.Sum64()
}

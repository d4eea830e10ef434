package nvmetcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestConnect: what is refused, and which parameter is blamed.
func TestConnect(t *testing.T) {
	addr, log := start(t, &Server{MaxQueues: 2})
	admin := attach(t, addr, rootNQN)
	admin.queue(addr, 1, 0, 4, false)
	disabled := ic(t, dial(t, addr), 0, 4)
	other := disabled.must(connectCommand(0, 31, anyController, 0, 0, rootNQN, hostNQN)).result
	const inData = 1 << 16
	long := strings.Repeat("n", maxNQN+1)
	for _, tt := range []struct {
		what   string
		cmd    command
		status status
		result uint64
	}{
		{"unknown subsystem", connectCommand(0, 31, anyController, 0, 0, "nqn.x", hostNQN), statusConnectParam, inData | 256},
		{"no subsystem", connectCommand(0, 31, anyController, 0, 0, "nqn.2026-01.test:nothing", hostNQN), statusConnectParam, inData | 256},
		{"empty subsystem", connectCommand(0, 31, anyController, 0, 0, "nqn.2026-01.test:empty", hostNQN), statusConnectParam, inData | 256},
		{"no name", connectCommand(0, 31, anyController, 0, 0, "", hostNQN), statusConnectParam, inData | 256},
		{"long name", connectCommand(0, 31, anyController, 0, 0, long, hostNQN), statusConnectParam, inData | 256},
		{"no host", connectCommand(0, 31, anyController, 0, 0, rootNQN, ""), statusConnectParam, inData | 512},
		{"static controller", connectCommand(0, 31, 5, 0, 0, rootNQN, hostNQN), statusConnectParam, inData | 16},
		{"queue of one", connectCommand(0, 0, anyController, 0, 0, rootNQN, hostNQN), statusConnectParam, 44},
		{"large queue", connectCommand(0, maxQueue, anyController, 0, 0, rootNQN, hostNQN), statusConnectParam, 44},
		{"no data", fabrics(fabricsConnect, 0, 31), statusSGLType, 0},
		{"short data", fabrics(fabricsConnect, 0, 31).with(make([]byte, 1000)), statusSGLLength, 0},
		{"format", func() command {
			c := connectCommand(0, 31, anyController, 0, 0, rootNQN, hostNQN)
			c.sqe[connectFormatAt] = 1
			return c
		}(), statusConnectFormat, 0},
		{"offset", func() command {
			c := connectCommand(0, 31, anyController, 0, 0, rootNQN, hostNQN)
			c.sqe[24] = 4
			return c
		}(), statusSGLOffset, 0},
		{"no such controller", connectCommand(1, 127, 77, 0, 0, rootNQN, hostNQN), statusConnectParam, inData | 16},
		{"other subsystem", connectCommand(2, 127, admin.id, 0, 0, hugeNQN, hostNQN), statusConnectParam, inData | 256},
		{"other host", connectCommand(2, 127, admin.id, 0, 0, rootNQN, "nqn.other"), statusConnectParam, inData | 512},
		{"queue number", connectCommand(3, 127, admin.id, 0, 0, rootNQN, hostNQN), statusConnectParam, 42},
		{"queue twice", connectCommand(1, 127, admin.id, 0, 0, rootNQN, hostNQN), statusSequence, 0},
		{"not enabled", connectCommand(1, 127, uint16(other), 0, 0, rootNQN, hostNQN), statusSequence, 0},
		{"something before", sqe(opIdentify, 0, cnsController).returning(4096), statusSequence, 0},
		{"property before", fabrics(fabricsPropertyGet, 1, propCAP), statusSequence, 0},
	} {
		h := ic(t, dial(t, addr), 0, 4)
		if a := h.do(tt.cmd); a.status != tt.status || a.result != tt.result {
			t.Errorf("%s: status %#x, result %#x; want %#x, %#x", tt.what, a.status, a.result, tt.status, tt.result)
		}
		h.must(connectCommand(0, 31, anyController, 0, 0, rootNQN, hostNQN)) // it may try again
		h.conn.Close()
	}
	if !log.Has(`unknown subsystem: no label \"nqn.x\"`)() {
		t.Errorf("log:\n%s", log)
	}
	if a := disabled.do(sqe(opIdentify, 0, cnsController).returning(4096)); a.status != statusSequence {
		t.Errorf("identify before it is enabled: %#x", a.status)
	}
}

func TestProperties(t *testing.T) {
	addr, _ := start(t, &Server{})
	h := attach(t, addr, rootNQN)
	get := func(size, off uint32) (uint64, status) {
		a := h.do(fabrics(fabricsPropertyGet, size, off))
		return a.result, a.status
	}
	for _, tt := range []struct {
		size, off uint32
		want      uint64
		status    status
	}{
		{1, propCAP, 0x0800_0020_0f01_03ff, 0}, {0, propVS, 0x20000, 0}, {0, propCC, 0x460001, 0}, {0, propCSTS, 1, 0},
		{0, propCRTO, 15, 0}, {0, propCAP, 0, statusField}, {1, propVS, 0, statusField}, {0, 0x20, 0, statusField}, {7, propVS, 0, statusField},
	} {
		if v, st := get(tt.size, tt.off); v != tt.want || st != tt.status {
			t.Errorf("property %#x: %#x, status %#x", tt.off, v, st)
		}
	}
	// What CSTS says after CC was set.
	for _, tt := range []struct{ cc, want uint32 }{
		{ccOurShape, 0}, {ccOurShape | 1, 1}, {ccOurShape | 1 | 1<<14, 1 | 2<<2}, {ccOurShape, 0}, {1, 2}, {0, 0},
		{ccOurShape | 1 | 1<<7, 2}, {ccOurShape | 2<<14, 2 << 2}, {ccOurShape | 1, 1},
	} {
		h.must(fabrics(fabricsPropertySet, 0, propCC, tt.cc))
		if v, _ := get(0, propCSTS); v != uint64(tt.want) {
			t.Errorf("CC %#x makes CSTS %#x, want %#x", tt.cc, v, tt.want)
		}
	}
	for _, c := range []command{fabrics(fabricsPropertySet, 0, propCSTS, 0), fabrics(fabricsPropertySet, 1, propCC, 0)} {
		if a := h.do(c); a.status != statusField {
			t.Errorf("status %#x", a.status)
		}
	}
	if a := h.do(fabrics(0x05)); a.status != statusOpcode {
		t.Errorf("authentication: status %#x", a.status)
	}
}

func TestIdentify(t *testing.T) {
	addr, _ := start(t, &Server{})
	disk, discovery := attach(t, addr, hugeNQN), attach(t, addr, DiscoveryNQN)
	ask := func(h *host, nsid uint32, cns, dword11 uint32) answer {
		return h.do(sqe(opIdentify, nsid, cns, dword11).returning(identifySize))
	}
	for _, tt := range []struct {
		what      string
		h         *host
		nsid, cns uint32
		dword11   uint32
		status    status
		at        int // of
		want      string
	}{
		{"controller", disk, 0, 1, 0, 0, 4, "d1d2030405060708090atest disk  "},
		{"number", disk, 0, 1, 0, 0, 77, "\x08\x01\x00\x00\x00\x02\x00"},
		{"name", disk, 0, 1, 0, 0, 768, hugeNQN + "\x00"},
		{"multipath", disk, 0, 1, 0, 0, 76, "\x0b"},
		{"discovery", discovery, 0, 1, 0, 0, 111, "\x02"},
		{"discovery name", discovery, 0, 1, 0, 0, 768, DiscoveryNQN + "\x00"},
		{"discovery has no namespace", discovery, 1, 0, 0, statusField, 0, ""},
		{"namespace", disk, 1, 0, 0, 0, 0, "\x01\x40\x00\x00\x00\x00\x00\x00\x01\x40"},
		{"write protected", disk, 1, 0, 0, 0, 99, "\x01"},
		{"identifier", disk, 1, 0, 0, 0, 104, "\xd1\xd2\x03\x04"},
		{"block size", disk, 1, 0, 0, 0, 130, "\x0c"},
		{"no namespace", disk, 2, 0, 0, statusNamespace, 0, ""},
		{"all namespaces", disk, allNamespaces, 0, 0, statusNamespace, 0, ""},
		{"list", disk, 0, 2, 0, 0, 0, "\x01\x00\x00\x00\x00"},
		{"list after", disk, 1, 2, 0, 0, 0, "\x00\x00"},
		{"list after all", disk, allNamespaces, 2, 0, statusNamespace, 0, ""},
		{"descriptors", disk, 1, 3, 0, 0, 0, "\x02\x10\x00\x00\xd1\xd2\x03\x04"},
		{"uuid", disk, 1, 3, 0, 0, 20, "\x03\x10\x00\x00\xd1\xd2\x03\x04\x05\x06\x87\x08\x89\x0a"},
		{"command set", disk, 1, 3, 0, 0, 40, "\x04\x01\x00\x00\x00\x00"},
		{"no descriptors", disk, 9, 3, 0, statusNamespace, 0, ""},
		{"NVM namespace", disk, 1, 5, 0, 0, 0, "\x00"},
		{"zoned namespace", disk, 1, 5, 2 << 24, statusField, 0, ""},
		{"NVM controller", disk, 0, 6, 0, 0, 0, "\x00"},
		{"zoned controller", disk, 0, 6, 2 << 24, statusField, 0, ""},
		{"NVM list", disk, 0, 7, 0, 0, 0, "\x01\x00"},
		{"independent", disk, 1, 8, 0, 0, 0, "\x08\x01\x00\x00\x01\x00\x00\x00\x01"},
		{"combinations", disk, 0, 0x1c, 0, 0, 0, "\x01\x00"},
		{"controllers", disk, 0, 0x13, 0, statusField, 0, ""},
	} {
		a := ask(tt.h, tt.nsid, tt.cns, tt.dword11)
		if a.status != tt.status {
			t.Errorf("%s: status %#x, want %#x", tt.what, a.status, tt.status)
		} else if a.status == statusSuccess && (len(a.data) != identifySize || !bytes.HasPrefix(a.data[tt.at:], []byte(tt.want))) {
			t.Errorf("%s: %d bytes, %q", tt.what, len(a.data), a.data[tt.at:][:max(24, len(tt.want))])
		}
	}
	if a := disk.do(sqe(opIdentify, 0, 1).returning(4092)); a.status != statusSGLLength {
		t.Errorf("too little room: status %#x", a.status)
	}
}

// logCommand asks for n bytes of a page from off.
func logCommand(id uint8, nsid uint32, n int, off uint64) command {
	dwords := uint32(n/4 - 1)
	return sqe(opGetLogPage, nsid, uint32(id)|dwords<<16, dwords>>16, uint32(off), uint32(off>>32)).returning(n)
}

func TestLogPages(t *testing.T) {
	addr, _ := start(t, &Server{})
	h := attach(t, addr, hugeNQN)
	h.queue(addr, 1, 0, 4, false).must(read(0, 256, 1<<20))
	for _, tt := range []struct {
		id     uint8
		nsid   uint32
		n      int
		off    uint64
		status status
		at     int
		want   string
	}{
		{logSupported, 0, 1024, 0, 0, 4, "\x01\x00\x00\x00\x01\x00\x00\x00\x01"},
		{logErrors, 0, 64, 0, 0, 0, strings.Repeat("\x00", 64)},
		{logHealth, allNamespaces, 512, 0, 0, 32, "\x03\x00"},
		{logHealth, 0, 512, 0, 0, 64, "\x01\x00"},
		{logHealth, 1, 512, 0, statusField, 0, ""},
		{logFirmware, 0, 512, 0, 0, 0, "\x01\x00\x00\x00\x00\x00\x00\x00netroot "},
		{logNamespaces, 0, 4096, 0, 0, 0, "\x00\x00"},
		{logEffects, 0, 4096, 0, 0, 1024, "\x01\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x00"},
		{logANA, 0, 52, 0, 0, 0, "\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01"},
		{logANA, 0, 8, 48, 0, 0, "\x01\x00\x00\x00\x00\x00\x00\x00"},
		{logANA, 0, 1 << 20, 0, 0, 52, "\x00"},
		{logFeatureKinds, 0, 1024, 0, 0, 4, "\x01"},
		{logANA, 0, 4, 56, statusField, 0, ""},
		{logANA, 0, 4, 2, statusField, 0, ""},
		{logANA, 0, 1<<20 + 4, 0, statusField, 0, ""},
		{logDiscovery, 0, 1024, 0, statusLogPage, 0, ""},
		{0xc0, 0, 4, 0, statusLogPage, 0, ""},
	} {
		a := h.do(logCommand(tt.id, tt.nsid, tt.n, tt.off))
		if a.status != tt.status {
			t.Errorf("page %#x: status %#x, want %#x", tt.id, a.status, tt.status)
		} else if a.status == 0 && (len(a.data) != tt.n || !bytes.HasPrefix(a.data[tt.at:], []byte(tt.want))) {
			t.Errorf("page %#x: %d bytes, %q", tt.id, len(a.data), a.data[:min(len(a.data), 64)])
		}
	}
	groups := logCommand(logANA, 0, 52, 0)
	groups.sqe[41] = 1
	if a := h.must(groups); a.data[20] != 0 || a.data[48] != 0 {
		t.Errorf("groups only: %x", a.data)
	}
}

func TestDiscovery(t *testing.T) {
	for _, tt := range []struct {
		what      string
		advertise netip.AddrPort
		family    byte
		addr      string
		port      string
	}{
		{what: "address of the connection", family: 1, addr: "127.0.0.1"},
		{"advertised", netip.MustParseAddrPort("[2001:db8::7]:4420"), 2, "2001:db8::7", "4420"},
	} {
		addr, _ := start(t, &Server{Advertise: tt.advertise})
		h := attach(t, addr, DiscoveryNQN)
		if tt.port == "" {
			tt.port = addr[strings.LastIndexByte(addr, ':')+1:]
		}
		// In the parts in which nvme-cli reads it, and all at once.
		var parts []byte
		for off := uint64(0); off < 3072; off += 512 {
			parts = append(parts, h.must(logCommand(logDiscovery, 0, 512, off)).data...)
		}
		b := h.must(logCommand(logDiscovery, 0, 3072, 0)).data
		if !bytes.Equal(parts, b) || le.Uint64(b) == 0 || le.Uint64(b[8:]) != 2 {
			t.Fatalf("%s: header %x", tt.what, b[:32])
		}
		text := func(at, size int) string { return string(bytes.TrimRight(b[at:at+size], "\x00")) }
		for i, nqn := range []string{rootNQN, hugeNQN} {
			at := 1024 * (i + 1)
			got := fmt.Sprint(b[at:at+10], text(at+32, 32), " ", text(at+256, 256), " ", text(at+512, 256))
			if want := fmt.Sprintf("[3 %d 2 4 1 0 255 255 32 0]%s %s %s", tt.family, tt.port, nqn, tt.addr); got != want {
				t.Errorf("%s: record %s, want %s", tt.what, got, want)
			}
		}
		if a := h.do(logCommand(logDiscovery, 0, 1024, 3076)); a.status != statusField {
			t.Errorf("behind the end: status %#x", a.status)
		}
		q := ic(t, dial(t, addr), 0, 4)
		if a := q.do(connectCommand(1, 127, h.id, 0, 0, DiscoveryNQN, hostNQN)); a.status != statusConnectParam {
			t.Errorf("I/O queue of discovery: status %#x", a.status)
		}
	}
	if a, b := (discoveryList{names: []string{"a"}}).generation(), (discoveryList{names: []string{"a", "b"}}).generation(); a == b {
		t.Errorf("generation %d of two lists", a)
	}
	failing := func(context.Context) ([]Subsystem, error) { return nil, errors.New("no store") }
	addr, log := start(t, &Server{List: failing})
	if a := attach(t, addr, DiscoveryNQN).do(logCommand(logDiscovery, 0, 1024, 0)); a.status != statusInternal || !log.Has("no store")() {
		t.Errorf("status %#x, log %s", a.status, log)
	}
}

func TestFeatures(t *testing.T) {
	addr, _ := start(t, &Server{MaxQueues: 3})
	disk, discovery := attach(t, addr, rootNQN), attach(t, addr, DiscoveryNQN)
	get := func(id uint32) command { return sqe(opGetFeatures, 0, id) }
	set := func(id, v uint32) command { return sqe(opSetFeatures, 0, id, v) }
	behavior := bytes.Repeat([]byte{1}, behaviorSize)
	for _, tt := range []struct {
		h      *host
		cmd    command
		result uint64
		status status
		data   string
	}{
		{disk, get(7), 0x00020002, 0, ""},
		{disk, set(7, 0x00000001), 0x00000001, 0, ""},
		{disk, set(7, 0x003f003f), 0x00020002, 0, ""},
		{disk, set(7, 0x0000ffff), 0, statusField, ""},
		{disk, set(0x0b, 0x0800), 0, 0, ""},
		{disk, get(0x0b), 0x0800, 0, ""},
		{disk, set(2, 1), 0, statusField, ""},
		{disk, set(2, 0), 0, 0, ""},
		{disk, set(2|1<<31, 0), 0, statusNotSaveable, ""},
		{disk, get(2 | 1<<8), 0, statusField, ""},
		{disk, get(0x0f), 0, 0, ""},
		{disk, set(0x0f, 100_000), 0, 0, ""},
		{disk, get(0x0f), 100_000, 0, ""},
		{disk, get(0x06), 0, statusField, ""},
		{disk, set(0x16, 0).with(behavior), 0, 0, ""},
		{disk, set(0x16, 0), 0, statusSGLType, ""},
		{disk, get(0x16).returning(behaviorSize), 0, 0, string(behavior)},
		{disk, sqe(opGetFeatures, 0, 0x81, 1).returning(16), 0, 0, "0123456789abcdef"},
		{disk, get(0x81).returning(8), 0, statusField, ""},
		{disk, set(0x81, 1).with(make([]byte, 16)), 0, statusSequence, ""},
		{discovery, get(7), 0, statusField, ""},
		{discovery, set(7, 1), 0, statusField, ""},
		{discovery, get(0x16).returning(behaviorSize), 0, statusField, ""},
		{discovery, set(0x0b, 1<<31), 0, 0, ""},
		{discovery, get(0x0b), 1 << 31, 0, ""},
	} {
		if a := tt.h.do(tt.cmd); a.result != tt.result || a.status != tt.status || string(a.data) != tt.data {
			t.Errorf("feature %x: result %#x, status %#x, %d bytes", tt.cmd.sqe[40:48], a.result, a.status, len(a.data))
		}
	}
}

// TestEvents: requests for events are held, so many, and given back when they are aborted.
func TestEvents(t *testing.T) {
	addr, _ := start(t, &Server{})
	h := attach(t, addr, rootNQN)
	for i := range maxEvents {
		h.send(sqe(opAsyncEvent, 0).numbered(uint16(100 + i)))
	}
	if a := h.do(sqe(opAsyncEvent, 0).numbered(9)); a.id != 9 || a.status != statusAsyncLimit {
		t.Errorf("one too many: command %d, status %#x", a.id, a.status)
	}
	if a := h.do(sqe(opAbort, 0, 101<<16).numbered(10)); a.id != 101 || a.status != statusAborted {
		t.Errorf("aborted: command %d, status %#x", a.id, a.status)
	}
	if a := h.next(nil); a.id != 10 || a.status != 0 || a.result != 0 {
		t.Errorf("abort: command %d, status %#x, result %d", a.id, a.status, a.result)
	}
	for _, what := range []uint32{101 << 16, 102<<16 | 1, 55 << 16} {
		if a := h.must(sqe(opAbort, 0, what)); a.result != 1 {
			t.Errorf("abort of %#x: result %d", what, a.result)
		}
	}
	h.send(sqe(opAsyncEvent, 0))
	if a := h.do(sqe(0x0d, 0).numbered(11)); a.id != 11 || a.status != statusOpcode {
		t.Errorf("unknown: command %d, status %#x", a.id, a.status)
	}
	h.must(sqe(opKeepAlive, 0))
	// A reset forgets them.
	h.must(fabrics(fabricsPropertySet, 0, propCC, ccOurShape))
	h.must(enable)
	h.send(sqe(opAsyncEvent, 0).numbered(12))
	if a := h.must(sqe(opAbort, 0, 100<<16)); a.result != 1 {
		t.Errorf("a request outlived a reset")
	}
}

func TestSubsystemIdentity(t *testing.T) {
	one := NewSubsystem([32]byte{1, 2, 3, 4, 5, 6, 0xff, 8, 0xff, 10, 11, 12, 13, 14, 15, 16, 17}, "m", &memory{size: 1})
	if one.NQN != "nqn.2014-08.org.nvmexpress:uuid:01020304-0506-8f08-bf0a-0b0c0d0e0f10" || one.Serial != "010203040506ff08ff0a" ||
		one.NGUID != [16]byte{1, 2, 3, 4, 5, 6, 0xff, 8, 0xff, 10, 11, 12, 13, 14, 15, 16} {
		t.Errorf("%+v", one)
	}
	for _, tt := range []struct {
		change func(*Subsystem)
		want   string
	}{
		{func(*Subsystem) {}, ""},
		{func(s *Subsystem) { s.BlockSize = 4096 }, ""},
		{func(s *Subsystem) { s.Backend = nil }, "no backend"},
		{func(s *Subsystem) { s.Backend = &memory{} }, "is empty"},
		{func(s *Subsystem) { s.NQN = "" }, "name of 0 bytes"},
		{func(s *Subsystem) { s.BlockSize = 1024 }, "choose 512 or 4096"},
		{func(s *Subsystem) { s.Serial = strings.Repeat("x", 21) }, "at most 20"},
		{func(s *Subsystem) { s.Model = "ä" }, "ASCII"},
	} {
		s := *one
		tt.change(&s)
		if err := s.check(); (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
}

func TestKeepAliveTimeoutOfHosts(t *testing.T) {
	if c, no := parseConnect(new(connectCommand(0, 31, anyController, 4, 15*time.Second, rootNQN, hostNQN))); no != nil || c.kato != 15*time.Second || !c.noFlow || c.size != 32 {
		t.Errorf("%+v, %+v", c, no)
	}
}

// TestConnectOfOldHosts: Linux before 6.0 puts the data of an I/O queue's Connect into the capsule
// only if IOCCSZ says that it fits, and offers it by a transport SGL otherwise, which no target
// answers with R2T.
func TestConnectOfOldHosts(t *testing.T) {
	addr, _ := start(t, &Server{})
	admin := attach(t, addr, rootNQN)
	page := admin.must(sqe(opIdentify, 0, cnsController).returning(identifySize)).data
	if room := 16*int(le.Uint32(page[1792:])) - sqeSize; room != connectSize {
		t.Errorf("room for %d bytes in a capsule", room)
	}
	q := ic(t, dial(t, addr), 0, 4)
	c := connectCommand(1, 127, admin.id, 0, 0, rootNQN, hostNQN)
	c.data = nil
	if a := q.do(c.returning(connectSize)); a.status != statusSGLType {
		t.Errorf("without data: status %#x", a.status)
	}
	q.must(connectCommand(1, 127, admin.id, 0, 0, rootNQN, hostNQN)) // and the connection goes on
	q.must(read(0, 1, 512))
}

package nfs3

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"netroot/internal/proto/accept"
	"netroot/internal/prototest"
)

// words returns a record of 32-bit words.
func words(v ...uint32) []byte {
	b := appendU32(nil, 0)
	for _, w := range v {
		b = appendU32(b, w)
	}
	return end(b, 0)
}

// wireHost is a server without exports.
func wireHost(t *testing.T) *host {
	h := newHost()
	h.start(t)
	return h
}

// TestReplies: what is wrong with a call is told in RPC's words (RFC 5531, section 9).
func TestReplies(t *testing.T) {
	h := wireHost(t)
	sys := func(body ...uint32) []uint32 {
		return append([]uint32{authSys, uint32(4 * len(body))}, body...)
	}
	call := func(prog, vers, proc uint32, cred ...uint32) []byte {
		v := append([]uint32{7, msgCall, rpcVersion, prog, vers, proc}, cred...)
		return words(append(v, 0, 0)...)
	}
	user := sys(0, 0, 1, 2, 0)
	for name, tt := range map[string]struct{ ask, want []byte }{
		"NULL":                   {call(programNFS, 3, 0, 0, 0), words(7, 1, 0, 0, 0, 0)},
		"NULL of MOUNT":          {call(programMount, 3, 0, 0, 0), words(7, 1, 0, 0, 0, 0)},
		"NULL, whoever asks":     {call(programNFS, 3, 0, 7, 4, 1), words(7, 1, 0, 0, 0, 0)},
		"another RPC":            {words(7, msgCall, 3), words(7, 1, 1, 0, 2, 2)},
		"another program":        {call(100021, 3, 0, 0, 0), words(7, 1, 0, 0, 0, 1)},
		"another version":        {call(programNFS, 4, 0, 0, 0), words(7, 1, 0, 0, 0, 2, 3, 3)},
		"another of MOUNT":       {call(programMount, 1, 0, 0, 0), words(7, 1, 0, 0, 0, 2, 3, 3)},
		"another procedure":      {call(programNFS, 3, 22, 0, 0), words(7, 1, 0, 0, 0, 3)},
		"another of MOUNT's":     {call(programMount, 3, 6, 0, 0), words(7, 1, 0, 0, 0, 3)},
		"no arguments":           {call(programNFS, 3, 1, user...), words(7, 1, 0, 0, 0, 4)},
		"RPCSEC_GSS":             {call(programNFS, 3, 1, 6, 4, 1), words(7, 1, 1, 1, 1)},
		"a short credential":     {call(programNFS, 3, 1, sys(0, 0, 1, 2)...), words(7, 1, 1, 1, 1)},
		"a long credential":      {call(programNFS, 3, 1, sys(0, 0, 1, 2, 0, 0)...), words(7, 1, 1, 1, 1)},
		"seventeen groups":       {call(programNFS, 3, 1, sys(append([]uint32{0, 0, 1, 2, 17}, make([]uint32, 17)...)...)...), words(7, 1, 1, 1, 1)},
		"a machine name of 1 GB": {call(programNFS, 3, 1, sys(0, 1<<30, 1, 2, 0)...), words(7, 1, 1, 1, 1)},
	} {
		c := h.dial(t)
		c.nc.Write(tt.ask)
		got := make([]byte, len(tt.want))
		if _, err := io.ReadFull(c.r, got); err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: %v\n got %x\nwant %x", name, err, got, tt.want)
		}
	}
}

// TestNoCalls: a record that is not a call or is too large ends the connection, and the log says
// why.
func TestNoCalls(t *testing.T) {
	for name, tt := range map[string]struct {
		say []byte
		why string
	}{
		"a reply":         {words(7, msgReply, 0, 0, 0, 0), errNotCall.Error()},
		"nothing":         {words(), errNotCall.Error()},
		"half a head":     {words(7, msgCall, rpcVersion, programNFS), errNotCall.Error()},
		"a verifier":      {words(7, msgCall, rpcVersion, programNFS, 3, 0, 0, 0, 0, 404), errNotCall.Error()},
		"HTTP":            {[]byte("GET / HTTP/1.1\r\n\r\n"), "more than 1050624"},
		"a record of 2GB": {appendU32(nil, 1<<32-1), "a request of 2147483647 bytes: more than 1050624"},
		"fragments":       {bytes.Repeat(append(appendU32(nil, 4096), make([]byte, 4096)...), 300), "a request of more than 1050624 bytes"},
		"half a record":   {words(7, msgCall, rpcVersion)[:9], "unexpected EOF"},
		"half a large":    {append(appendU32(nil, lastFragment|100_000), 1, 2), "unexpected EOF"},
		"half a mark":     {[]byte{0x80, 0}, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			h := wireHost(t)
			c := h.dial(t)
			c.nc.Write(tt.say)
			c.nc.(*net.TCPConn).CloseWrite()
			if b, err := io.ReadAll(c.r); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("said %x, %v", b, err)
			}
			prototest.Until(t, "the line "+tt.why, func() bool { return strings.Contains(h.log.String(), `nfs3: refused`) })
			if !strings.Contains(h.log.String(), tt.why) {
				t.Errorf("log:\n%s", h.log)
			}
		})
	}
}

// TestFragments cuts a request into fragments of all sizes, empty ones too.
func TestFragments(t *testing.T) {
	dir, h, c, root := writable(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	write(t, filepath.Join(dir, "file"), nil, 0o644)
	fh := c.walk(root, "file")
	body := appendU32(appendU32(appendU64(appendOpaque(nil, fh), 0), uint32(len(data))), 0)
	for _, size := range []int{0, 1, 3, 4, 100, 4096, 65536} {
		c := h.dial(t)
		whole := c.request(programNFS, nfsVersion, procWrite, appendOpaque(body, data))[recordMark:]
		var b []byte
		if size == 0 { // one in the middle of others that are whole
			b = appendU32(appendU32(b, 0), 0)
			size = len(whole) - 1
		}
		for len(whole) > size {
			b = append(appendU32(b, uint32(size)), whole[:size]...)
			whole = whole[size:]
		}
		b = append(appendU32(b, lastFragment|uint32(len(whole))), whole...)
		b = append(b, c.request(programNFS, nfsVersion, procNull, nil)...)
		go c.nc.Write(b)
		for range 2 { // in either order
			_, a, err := c.reply()
			if err != nil || a.u64() != 0 || a.u32() != 0 || a.u32() != acceptSuccess {
				t.Fatalf("fragments of %d: %v, %x", size, err, a.b)
			}
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file has %d bytes and differs: %v", len(got), err)
	}
}

// arguments are good arguments of every procedure, for dir, file and the names in it; the last word
// of each counts.
func arguments(dir, file []byte) map[[2]uint32][]byte {
	name := func(n string) []byte { return appendOpaque(appendOpaque(nil, dir), n) }
	of := func(h []byte, v ...uint32) []byte {
		b := appendOpaque(nil, h)
		for _, w := range v {
			b = appendU32(b, w)
		}
		return b
	}
	set := mode(0o644)
	set.atime, set.uid, set.size = now(), new(uint32), new(uint64)
	return map[[2]uint32][]byte{
		{programNFS, procGetattr}:     of(file),
		{programNFS, procSetattr}:     append(appendSattr(of(file), set), words(1, 2, 3)[recordMark:]...),
		{programNFS, procLookup}:      name("file"),
		{programNFS, procAccess}:      of(file, 63),
		{programNFS, procReadlink}:    of(file),
		{programNFS, procRead}:        of(file, 0, 0, 100),
		{programNFS, procWrite}:       appendOpaque(of(file, 0, 0, 4, 0), "data"),
		{programNFS, procCreate}:      appendSattr(appendU32(name("new"), createGuarded), set),
		{programNFS, procMkdir}:       appendSattr(name("newdir"), set),
		{programNFS, procSymlink}:     appendOpaque(appendSattr(name("newlink"), set), "text"),
		{programNFS, procMknod}:       append(appendSattr(appendU32(name("newdev"), typeChar), set), words(1, 3)[recordMark:]...),
		{programNFS, procRemove}:      name("none"),
		{programNFS, procRmdir}:       name("none"),
		{programNFS, procRename}:      append(name("none"), name("none")...),
		{programNFS, procLink}:        append(appendOpaque(nil, file), name("file")...),
		{programNFS, procReaddir}:     of(dir, 0, 0, 0, 0, 4096),
		{programNFS, procReaddirplus}: of(dir, 0, 0, 0, 0, 4096, 4096),
		{programNFS, procFsstat}:      of(dir),
		{programNFS, procFsinfo}:      of(dir),
		{programNFS, procPathconf}:    of(dir),
		{programNFS, procCommit}:      of(file, 0, 0, 0),
		{programMount, 1}:             appendOpaque(nil, "/root"),
		{programMount, 3}:             appendOpaque(nil, "/root"),
	}
}

// TestCutArguments: arguments that are cut anywhere, or have a length that lies, are garbage.
func TestCutArguments(t *testing.T) {
	dir, _, c, root := writable(t)
	write(t, filepath.Join(dir, "file"), nil, 0o644)
	fh := c.walk(root, "file")
	for k, body := range arguments(root, fh) {
		for n := 0; n < len(body); n += 4 {
			for _, b := range [][]byte{body[:n], append(bytes.Clone(body[:n]), 0xff, 0xff, 0xff, 0xff)} {
				c.nc.Write(c.request(k[0], 3, k[1], b))
				_, a, err := c.reply()
				if err != nil {
					t.Fatal(err)
				}
				lies := len(b) > n // some words may be anything
				if state, v1, v2, got := a.u32(), a.u32(), a.u32(), a.u32(); state|v1|v2 != 0 || got != acceptGarbageArgs && !lies {
					t.Errorf("procedure %v, cut at %d: %d %d %d %d", k, n, state, v1, v2, got)
				}
			}
		}
		c.nc.Write(c.request(k[0], 3, k[1], body))
		if _, a, err := c.reply(); err != nil || a.u64() != 0 || a.u32() != 0 || a.u32() != acceptSuccess {
			t.Errorf("procedure %v, whole: %v %s", k, err, hex.EncodeToString(a.b))
		}
	}
}

// pipe serves one end of a pipe in the bubble of a synctest and returns the other.
func pipe(t *testing.T, s *Server) (near net.Conn, ended chan struct{}) {
	near, far := net.Pipe()
	s.once.Do(s.setup)
	ended = make(chan struct{})
	go func() {
		s.loop.ServeConn(t.Context(), far)
		far.Close()
		close(ended)
	}()
	return near, ended
}

// TestSlowPeers: a client that does not end a request, or takes no reply, is disconnected after a
// minute; one that is idle is not.
func TestSlowPeers(t *testing.T) {
	null := (&client{t: t}).request(programNFS, nfsVersion, procNull, nil)
	for name, tt := range map[string]struct {
		say   []byte
		after time.Duration
		why   string
	}{
		"half a request":       {null[:9], accept.Stall, "a request did not arrive whole in 1m0s"},
		"half a large request": {append(appendU32(nil, lastFragment|1<<20), 1), accept.Stall, "a request did not arrive whole in 1m0s"},
		"takes no reply":       {null, accept.Stall, "the client took no data for 1m0s"},
		"nothing":              {nil, accept.FirstRequest, "no request within 10s"},
		"idle":                 {null, time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost()
				near, ended := pipe(t, h.Server)
				begin := time.Now()
				near.Write(tt.say)
				if tt.why == "" {
					(&client{t: t, nc: near, r: bufio.NewReader(near)}).reply()
					time.Sleep(tt.after)
					near.Close()
				}
				<-ended
				if d := time.Since(begin); d != tt.after {
					t.Errorf("after %v", d)
				}
				if log := h.log.String(); tt.why == "" && log != "" || !strings.Contains(log, tt.why) {
					t.Errorf("log: %s", log)
				}
			})
		})
	}
}

// TestMemory: requests of many clients that take no replies hold no more memory than they may, and
// the others go on; so do requests that are made large by bytes that mean nothing.
func TestMemory(t *testing.T) {
	t.Run("small requests", func(t *testing.T) { testMemory(t, 32, 0) })
	t.Run("large requests", func(t *testing.T) { testMemory(t, 2, readAhead) })
}

func testMemory(t *testing.T, clients, more int) {
	dir, _, _, _ := writable(t)
	write(t, filepath.Join(dir, "big"), make([]byte, 1<<20), 0o644)
	h := newHost()
	h.MaxBuffer = 4 << 20
	h.export("root", dir, Export{Clients: everywhere, AnyPort: true, TrustRoot: true})
	h.start(t)
	c := h.dial(t)
	big := c.walk(c.mount("/root"), "big")
	read := c.request(programNFS, nfsVersion, procRead, append(appendU32(appendU64(appendOpaque(nil, big), 0), 1<<20), make([]byte, more)...))
	before := inUse()
	for range clients {
		nc := h.dial(t).nc
		nc.(*net.TCPConn).SetReadBuffer(4096)
		go nc.Write(bytes.Repeat(read, 64))
	}
	prototest.Until(t, "the memory is taken", func() bool { return h.Counters().Memory > 2<<20 })
	for i := range 100 {
		want := uint32(4096)
		if i%2 == 1 {
			want = 1 << 20
		}
		s, data, eof := c.read(big, 0, want)
		if n := uint32(len(data)); s != statusOK || n != min(want, n) || n < min(want, smallRead) || eof != (n == 1<<20) {
			t.Fatalf("READ of %d: status %d, %d bytes, end %v", want, s, n, eof)
		}
	}
	dirs := c.list(c.mount("/root"), true, 65536)
	if len(dirs) != 3 {
		t.Errorf("%v", dirs)
	}
	if n := inUse() - before; n > 16<<20 {
		t.Errorf("%d bytes more", n)
	}
}

// inUse returns the bytes of the heap that are reachable.
func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestPanic: a panic ends its connection, with a line, and gives everything back.
func TestPanic(t *testing.T) {
	h := newHost()
	h.List = func(context.Context) ([]Listed, error) { panic("oops") }
	h.start(t)
	c := h.dial(t)
	c.nc.Write(c.request(programMount, mountVersion, 5, nil))
	if _, _, err := c.reply(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if log := h.log.String(); !strings.Contains(log, "nfs3: panic, connection closed") || !strings.Contains(log, "panic=oops") {
		t.Errorf("log: %s", log)
	}
	d := h.dial(t)
	d.call(programNFS, nfsVersion, procNull, nil)
	prototest.Until(t, "memory is given back", func() bool { return h.Counters().Memory == 0 })
}

// TestExportList: EXPORT and DUMP tell what there is, no more than fits.
func TestExportList(t *testing.T) {
	needRoot(t)
	h := newHost()
	long := strings.Repeat("/long", 200)
	h.List = func(context.Context) ([]Listed, error) {
		all := []Listed{{"/root", everywhere}, {"/other", nil}}
		for range 1000 {
			all = append(all, Listed{Path: long})
		}
		return all, nil
	}
	h.export("root", t.TempDir(), Export{Clients: everywhere, AnyPort: true})
	var unmounted []string
	var disbelief error
	h.Unmounted = func(path string, _ netip.AddrPort) error {
		if disbelief == nil {
			unmounted = append(unmounted, path)
		}
		return disbelief
	}
	h.start(t)
	c := h.dial(t)
	a := c.call(programMount, mountVersion, 5, nil)
	var got []string
	n := 0
	for ; a.flag(); n++ {
		line := string(a.opaque(maxMountPath))
		for a.flag() {
			line += " " + string(a.opaque(maxMountName))
		}
		if n < 2 {
			got = append(got, line)
		}
	}
	c.ended(a, "EXPORT")
	if strings.Join(got, "\n") != "/root 0.0.0.0/0 ::/0\n/other" || n < 60 || n > 66 {
		t.Errorf("%q, %d lines", got, n)
	}
	dump := func() (all []string) {
		a := c.call(programMount, mountVersion, 2, nil)
		for a.flag() {
			all = append(all, string(a.opaque(maxMountName))+":"+string(a.opaque(maxMountPath)))
		}
		c.ended(a, "DUMP")
		return all
	}
	c.mount("/root")
	if d := dump(); len(d) != 1 || d[0] != "127.0.0.1:/root" {
		t.Errorf("%q", d)
	}
	c.ended(c.call(programMount, mountVersion, 3, appendOpaque(nil, "/root")), "UMNT")
	if d := dump(); len(d) != 0 {
		t.Errorf("%q", d)
	}
	c.mount("/root")
	c.ended(c.call(programMount, mountVersion, 4, nil), "UMNTALL")
	if d := dump(); len(d) != 0 || strings.Join(unmounted, ",") != "/root," {
		t.Errorf("%q, told %q", d, unmounted)
	}
	c.mount("/root")
	disbelief = fmt.Errorf("%w: that port is anyone's", ErrDenied)
	c.ended(c.call(programMount, mountVersion, 3, appendOpaque(nil, "/root")), "UMNT")
	c.ended(c.call(programMount, mountVersion, 4, nil), "UMNTALL")
	if d := dump(); len(d) != 1 || !strings.Contains(h.log.String(), `asked="unmount of all" why="access denied: that port is anyone's"`) {
		t.Errorf("after two that were not believed: %q, log:\n%s", d, h.log)
	}
}

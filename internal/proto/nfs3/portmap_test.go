package nfs3

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// startPortmap serves until the test ends, over TCP and UDP.
func startPortmap(t *testing.T) (tcp, udp string, udpConn net.PacketConn, done chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done = make(chan error, 1)
	p := &Portmap{Mappings: Mappings(2049)}
	ended := make(chan struct{})
	go func() {
		done <- p.Serve(ctx, l, u)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return l.Addr().String(), u.LocalAddr().String(), u, done
}

// TestPortmap asks everything over TCP and UDP.
func TestPortmap(t *testing.T) {
	tcp, udp, _, done := startPortmap(t)
	ask := func(vers, proc uint32, args ...uint32) []byte {
		return words(append([]uint32{9, msgCall, rpcVersion, programPortmap, vers, proc, 0, 0, 0, 0}, args...)...)
	}
	for name, tt := range map[string]struct{ ask, want []byte }{
		"NULL":            {ask(2, 0), words(9, 1, 0, 0, 0, 0)},
		"NFS":             {ask(2, 3, 100003, 3, 6, 0), words(9, 1, 0, 0, 0, 0, 2049)},
		"MOUNT":           {ask(2, 3, 100005, 3, 6, 0), words(9, 1, 0, 0, 0, 0, 2049)},
		"MOUNT 1":         {ask(2, 3, 100005, 1, 6, 0), words(9, 1, 0, 0, 0, 0, 2049)},
		"NFS by UDP":      {ask(2, 3, 100003, 3, 17, 0), words(9, 1, 0, 0, 0, 0, 0)},
		"lock manager":    {ask(2, 3, 100021, 4, 6, 0), words(9, 1, 0, 0, 0, 0, 0)},
		"cut":             {ask(2, 3, 100003, 3, 6), words(9, 1, 0, 0, 0, 4)},
		"SET":             {ask(2, 1, 100003, 3, 6, 1), words(9, 1, 0, 0, 0, 0, 0)},
		"UNSET":           {ask(2, 2, 100003, 3, 6, 1), words(9, 1, 0, 0, 0, 0, 0)},
		"CALLIT":          {ask(2, 5, 100003, 3, 0, 0), words(9, 1, 0, 0, 0, 3)},
		"rpcbind 4":       {ask(4, 3), words(9, 1, 0, 0, 0, 2, 2, 2)},
		"another program": {words(9, msgCall, rpcVersion, programNFS, 3, 0, 0, 0, 0, 0), words(9, 1, 0, 0, 0, 1)},
		"another RPC":     {words(9, msgCall, 3), words(9, 1, 1, 0, 2, 2)},
		"DUMP":            {ask(2, 4), words(9, 1, 0, 0, 0, 0, 1, 100003, 3, 6, 2049, 1, 100005, 3, 6, 2049, 0)},
	} {
		nc, err := net.Dial("tcp", tcp)
		must(t, err)
		nc.SetDeadline(time.Now().Add(patience))
		nc.Write(tt.ask)
		got := make([]byte, len(tt.want))
		if _, err := io.ReadFull(nc, got); err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s by TCP: %v\n got %x\nwant %x", name, err, got, tt.want)
		}
		nc.Close()
		nc, err = net.Dial("udp", udp)
		must(t, err)
		nc.SetDeadline(time.Now().Add(patience))
		nc.Write(words(1)[recordMark:]) // no call: no answer
		nc.Write(tt.ask[recordMark:])
		got = make([]byte, 1<<10)
		n, err := nc.Read(got)
		if err != nil || !bytes.Equal(got[:n], tt.want[recordMark:]) {
			t.Errorf("%s by UDP: %v\n got %x\nwant %x", name, err, got[:n], tt.want[recordMark:])
		}
		nc.Close()
	}
	for _, bad := range []string{"GET / HTTP/1.1\r\n", "\x00\x00\x00\x04abcd", "\x80\x00\x00\x04abcd"} {
		nc, err := net.Dial("tcp", tcp)
		must(t, err)
		nc.SetDeadline(time.Now().Add(patience))
		io.WriteString(nc, bad)
		if _, err := bufio.NewReader(nc).ReadByte(); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q: answered, or %v", bad, err)
		}
		nc.Close()
	}
	select {
	case err := <-done:
		t.Errorf("ended: %v", err)
	default:
	}
}

// TestPortmapFails: a socket that fails ends it all, with the reason.
func TestPortmapFails(t *testing.T) {
	_, _, u, done := startPortmap(t)
	u.Close()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "use of closed network connection") {
		t.Errorf("%v", err)
	}
}

// FuzzPortmap: whatever comes is answered in few bytes or not at all.
func FuzzPortmap(f *testing.F) {
	p := &Portmap{Mappings: Mappings(2049)}
	p.once.Do(p.setup)
	f.Add(words(9, msgCall, rpcVersion, programPortmap, 2, 3, 0, 0, 0, 0, 100003, 3, 6, 0)[recordMark:])
	f.Add(words(9, msgCall, rpcVersion, programPortmap, 2, 4, 0, 0, 0, 0)[recordMark:])
	f.Add(words(9, msgCall, 1)[recordMark:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(p.answer(b)); n > 100 {
			t.Errorf("%d bytes", n)
		}
	})
}

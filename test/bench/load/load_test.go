package load

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"netroot/internal/proto/iscsi"
	"netroot/internal/proto/nbd"
	"netroot/internal/proto/nvmetcp"
)

const size = 4 << 20

// clients connects one client of each protocol to a server of ours that serves the data.
func clients(t *testing.T, data []byte) map[string]*Conn {
	disk := bytes.NewReader(data)
	sub := nvmetcp.NewSubsystem([32]byte{1}, "load", disk)
	const iqn = "iqn.2026-01.org.example:load"
	run := func(serve func(context.Context, net.Listener) error) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- serve(ctx, l) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return l.Addr().String()
	}
	overNBD, err := NBD(t.Context(), run((&nbd.Server{Lookup: func(context.Context, string) (*nbd.Export, error) {
		return &nbd.Export{Backend: disk}, nil
	}}).Serve), "")
	if err != nil {
		t.Fatal(err)
	}
	host, err := NVMe(t.Context(), run((&nvmetcp.Server{Lookup: func(context.Context, string) (*nvmetcp.Subsystem, error) {
		return sub, nil
	}}).Serve), sub.NQN, 0)
	if err != nil {
		t.Fatal(err)
	}
	overNVMe, err := host.Queue(t.Context(), 0, 1, size)
	if err != nil {
		t.Fatal(err)
	}
	overISCSI, err := ISCSI(t.Context(), "iscsi://"+run((&iscsi.Server{Lookup: func(context.Context, string) (*iscsi.Target, error) {
		return &iscsi.Target{Name: iqn, Backend: disk}, nil
	}}).Serve)+"/"+iqn+"/0", 0)
	if err != nil {
		t.Fatal(err)
	}
	overISCSI.Blocks = size / block
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(web.Close)
	overHTTP, err := HTTP(From(t.Context(), netip.MustParseAddr("127.0.0.9")), web.URL+"/disk", size)
	if err != nil {
		t.Fatal(err)
	}
	if from := overHTTP.LocalAddr().(*net.TCPAddr).IP; !from.Equal(net.IPv4(127, 0, 0, 9)) {
		t.Errorf("HTTP from %s", from)
	}
	t.Cleanup(func() { overNBD.Close(); overNVMe.Close(); host.Close(); overISCSI.Close(); overHTTP.Close() })
	return map[string]*Conn{"NBD": overNBD, "NVMe": overNVMe, "iSCSI": overISCSI, "HTTP": overHTTP}
}

// TestRead: what is read is there, and what cannot be read is an error and no end of the
// connection.
func TestRead(t *testing.T) {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{5}).Read(data)
	for name, c := range clients(t, data) {
		for _, n := range []int{4 << 10, 64 << 10, 1 << 20} {
			if err := c.Read(8192, n); err != nil {
				t.Fatalf("%s: %d bytes: %v", name, n, err)
			}
		}
		// The last piece of what was read is still there.
		if !bytes.Equal(c.last, data[8192+(1<<20)-len(c.last):][:len(c.last)]) {
			t.Errorf("%s: %d other bytes", name, len(c.last))
		}
		if err := c.Read(size, 4096); err == nil {
			t.Errorf("%s: a read past the end went well", name)
		}
	}
}

// TestRun: many reads under way, on as many connections as there are.
func TestRun(t *testing.T) {
	for name, c := range clients(t, make([]byte, size)) {
		if name == "iSCSI" {
			continue // has its reads one after the other
		}
		r, err := Run(t.Context(), []*Conn{c}, Pattern{Bytes: 4096, Depth: 16, Random: true, For: 20 * time.Millisecond})
		if err != nil || r.Reads < 16 || r.Rate < 16 || r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// TestDelay: an answer comes no sooner than the delay, and what was asked is not lost or reordered.
func TestDelay(t *testing.T) {
	for name, c := range clients(t, make([]byte, size)) {
		const by = 20 * time.Millisecond
		c.Delay(by)
		r, err := Run(t.Context(), []*Conn{c}, Pattern{Bytes: 4096, Depth: 1, Random: true, For: by})
		if err != nil || r.Reads == 0 || r.P50 < by {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

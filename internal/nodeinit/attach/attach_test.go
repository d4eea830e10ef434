package attach

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/report"
)

// quiet is a step whose console a test reads.
func quiet() (report.Step, *bytes.Buffer) {
	var said bytes.Buffer
	return report.Step{Name: "attach", To: report.NewConsole(&said)}, &said
}

// TestAddresses: a server whose name does not resolve, or resolves to the address of another, is
// left out. It is an error only if none is left.
func TestAddresses(t *testing.T) {
	step, told := quiet()
	root := handoff.Root{Transport: handoff.NVMe, Servers: []string{"192.0.2.1", "no..name", "2001:db8::1", "192.0.2.1"}}
	r := Request{Root: root, Report: step}
	got, err := r.addresses(t.Context())
	if diff := cmp.Diff([]string{"192.0.2.1:4420", "[2001:db8::1]:4420"}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if !strings.Contains(told.String(), "attach: FAILED: lookup no..name") {
		t.Errorf("told: %s", told)
	}
	r.Root.Servers = []string{"no..name"}
	if _, err := r.addresses(t.Context()); err == nil || !strings.Contains(err.Error(), "no..name") {
		t.Errorf("without any: %v", err)
	}
}

// TestWaitHangup: whoever watches a connection wakes when its peer ends it.
func TestWaitHangup(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	defer file.Close()
	woken := make(chan error, 1)
	go func() { woken <- waitHangup(file) }()
	peer.Write([]byte("data alone does not wake it"))
	select {
	case err := <-woken:
		t.Fatalf("woken by data: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	peer.Close()
	if err := <-woken; err != nil {
		t.Error(err)
	}
}

// nbdMessage is what the kernel sends when a connection of a device is dead: nbd_mcast_index of
// drivers/block/nbd.c.
func nbdMessage(command byte, index uint32) []byte {
	return append([]byte{command, 1, 0, 0}, nl.NewRtAttr(nbdAttrIndex, nl.Uint32Attr(index)).Serialize()...)
}

func TestLinkDead(t *testing.T) {
	whole := nbdMessage(nbdCmdLinkDead, 3)
	if !isLinkDead(whole, 3) {
		t.Error("the dead link is not recognised")
	}
	for name, m := range map[string][]byte{"another device": nbdMessage(nbdCmdLinkDead, 4), "another command": nbdMessage(nbdCmdConnect, 3), "half": whole[:6], "an end within padding": {nbdCmdLinkDead, 1, 0, 0, 5, 0, 9, 0, 1}, "nothing": nil} {
		if isLinkDead(m, 3) {
			t.Errorf("%s is taken for that", name)
		}
	}
}

func FuzzLinkDead(f *testing.F) {
	f.Add(nbdMessage(nbdCmdLinkDead, 0))
	f.Add([]byte{nbdCmdLinkDead, 1, 0, 0, 255, 255, 1, 0})
	f.Add([]byte{nbdCmdLinkDead, 1, 0, 0, 5, 0, 9, 0, 1})
	f.Fuzz(func(_ *testing.T, message []byte) { isLinkDead(message, 0) })
}

// TestFor: each transport has its function, and nothing else has one.
func TestFor(t *testing.T) {
	for _, transport := range handoff.Transports() {
		if For(transport) == nil {
			t.Errorf("%s has none", transport)
		}
	}
	if For("floppy") != nil {
		t.Error("a transport that does not exist has one")
	}
}

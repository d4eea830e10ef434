package keeper

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/network"
)

// TestState: the orders are the same when the keeper has read them.
func TestState(t *testing.T) {
	cfg := &network.Config{Link: "eth0", Index: 2, MAC: "52:54:00:12:34:56", Address: netip.MustParsePrefix("10.1.2.3/24"),
		Lease: &network.Lease{Server: "10.1.2.1", ACK: []byte{1, 2}, Offer: []byte{3}, Duration: time.Hour}}
	iscsi := &attach.ISCSI{Addresses: []string{"10.1.2.1:3260"}, Target: "iqn.x", LUN: 1, Initiator: "iqn.y", ISID: [6]byte{0x80, 1, 2, 3}}
	iscsi.Kernel.Handle, iscsi.Kernel.SID, iscsi.Kernel.CID = 0xffffffffc0a81234, 7, 2
	for name, in := range map[string]State{
		"nbd":   {NBD: &attach.NBD{Index: 3, Addresses: []string{"10.1.2.1:10809"}, Export: "a@b", Size: 1 << 40}, Net: cfg},
		"iscsi": {ISCSI: iscsi},
		"live":  {Live: true},
		"lease": {Net: cfg},
	} {
		text, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var out State
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatal(err)
		}
		same := cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Exporter(func(reflect.Type) bool { return true })}
		if d := cmp.Diff(in, out, same); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if !out.Needed() || (out.device() != nil) != (name == "nbd" || name == "iscsi") {
			t.Errorf("%s: needed %v, device %v", name, out.Needed(), out.device())
		}
	}
	if (State{Net: &network.Config{Link: "eth0"}}).Needed() {
		t.Error("a static address needs no keeper")
	}
}

// The orders of a process that outlives this one are all there before it begins.
func TestFilledPipe(t *testing.T) {
	r, err := filledPipe([]byte("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 100)
	if n, err := r.Read(buf); string(buf[:n]) != "orders" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if _, err := filledPipe(make([]byte, 65<<10)); err == nil {
		t.Error("more than a pipe holds is taken")
	}
}

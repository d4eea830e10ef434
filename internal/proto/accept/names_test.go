package accept

import (
	"net/netip"
	"testing"
)

func TestNames(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	n := names{}
	for i, step := range []struct {
		client string
		from   netip.Addr
		leaves bool
		other  netip.Addr
	}{
		{"x", a, false, netip.Addr{}},
		{"x", a, false, netip.Addr{}}, // a second path of one machine
		{"y", b, false, netip.Addr{}},
		{"x", b, false, a},
		{"x", b, true, netip.Addr{}},
		{"x", a, true, netip.Addr{}},
		{"x", b, false, a}, // one of two sessions is left
		{"x", a, true, netip.Addr{}},
		{"x", b, true, netip.Addr{}},
		{"x", b, false, netip.Addr{}}, // the address of a machine has changed
	} {
		if step.leaves {
			n.remove(step.client, step.from)
		} else if other := n.add(step.client, step.from); other != step.other {
			t.Errorf("step %d: %v, want %v", i, other, step.other)
		}
	}
	n.remove("x", b)
	n.remove("y", b)
	if len(n) != 0 {
		t.Errorf("left: %v", n)
	}
	if got := address(netip.MustParseAddrPort("[::ffff:10.0.0.1]:7")); got != a {
		t.Errorf("%v", got)
	}
}

package handoff

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDrivers(t *testing.T) {
	got := ParseDrivers("quiet modprobe.blacklist=nouveau,snd-pcsp rd.driver.blacklist=e1000e,,igb module_blacklist=mlx4_core rd.driver.pre=bnxt-en rd.driver.post=a,b rd.driver.pre=x modprobe.blacklist= nouveau.blacklist=y")
	want := Drivers{
		KeptOut: map[string]string{"nouveau": "modprobe.blacklist", "snd_pcsp": "modprobe.blacklist", "e1000e": "rd.driver.blacklist", "igb": "rd.driver.blacklist", "mlx4_core": "module_blacklist"},
		Before:  []string{"bnxt_en", "x"},
		After:   []string{"a", "b"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

package site

import (
	"strings"
	"testing"
)

// TestCheckCmdline: what nothing would read, or what a mount would refuse, is named; what the
// kernel, dracut or a module may know is not.
func TestCheckCmdline(t *testing.T) {
	for line, want := range map[string]string{
		"rootoverlay=2G":     `kernel argument rootoverlay=2G: nothing reads it; did you mean "rootovl"?`,
		"rootovelcfg=a":      `kernel argument rootovelcfg=a: nothing reads it; did you mean "rootovlcfg"?`,
		"rootfslags=noatime": `kernel argument rootfslags=noatime: nothing reads it; did you mean "rootflags"?`,
		"netroot.layers=x":   `kernel argument netroot.layers=x: nothing reads it; did you mean "netroot.layer"?`,
		"rootflags=bogus":    "kernel argument rootflags=bogus: squashfs or erofs has no mount option bogus",
		"rootflags=noatime,error=panic rootfstype=squashfs": `kernel argument rootflags=noatime,error=panic: squashfs has no mount option error=panic; did you mean "errors=panic"?`,
		"rootfstype=erofs rootflags=threads=multi":          "kernel argument rootflags=threads=multi: erofs has no mount option threads=multi",
		"rootovl=much":     "kernel argument rootovl=much: not a size such as 2G or 30%",
		"rootfstype=ext4":  "kernel argument rootfstype=ext4: a packed root is squashfs or erofs",
		"rd.retry=forever": "kernel argument rd.retry=forever: not a number of seconds",

		"rootflags=noatime,errors=panic,threads=4 rootovl=2G rootovl=30% rootovl rootwait rootdelay=3 rd.retry=60": "",
		"rootfstype=erofs rootflags=cache_strategy=readaround,noacl":                                               "",
		"root=nfs:10.0.0.1:/tree:ro,vers=3 rootflags=nfsvers=3,nconnect=4":                                         "",
		"rd.luks=0 rd.neednet=1 quiet init=/bin/sh nbd.max_part=3 roothash=":                                       "",
		"netroot=nbd:10.0.0.1:10809 console=ttyS0 systemd.unit=rescue.target":                                      "",
	} {
		if got := strings.Join(CheckCmdline(strings.Fields(line)), "\n"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", line, got, want)
		}
	}
}

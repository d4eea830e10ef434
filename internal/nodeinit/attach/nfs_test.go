package attach

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
)

func TestNFSMount(t *testing.T) {
	for line, want := range map[string]Mount{
		"root=nfs:10.0.0.1:/debian12:ro,vers=3,tcp,nolock,port=2050,mountport=2050": {
			"10.0.0.1:/debian12", "nfs", "addr=10.0.0.1,vers=3,tcp,nolock,port=2050,mountport=2050", unix.MS_RDONLY},
		"root=10.0.0.1:/srv/x:rw,nolock,noatime,hard rootfstype=nfs": {
			"10.0.0.1:/srv/x", "nfs", "addr=10.0.0.1,nolock", unix.MS_NOATIME},
		"root=nfs4:[fd00::1]:/x": {"[fd00::1]:/x", "nfs4", "addr=fd00::1", unix.MS_RDONLY}, // nobody said rw
	} {
		b, err := handoff.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, nfsMount(b.Root, b.Root.Servers[0])); d != "" {
			t.Errorf("%s (-want +got):\n%s", line, d)
		}
	}
}

func TestImageDirectory(t *testing.T) {
	r, err := handoff.ParseRoot("live:nfs://10.0.0.1:2050/.images/ab")
	if err != nil {
		t.Fatal(err)
	}
	got := nfsMount(imageDirectory(r, "/.images"), "10.0.0.1")
	want := Mount{"10.0.0.1:/.images", "nfs", "addr=10.0.0.1,vers=3,tcp,nolock,port=2050,mountport=2050", unix.MS_RDONLY}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

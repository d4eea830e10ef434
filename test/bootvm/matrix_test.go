package bootvm

import "testing"

// TestTransports boots by each transport that the others do not use.
func TestTransports(t *testing.T) {
	needLab(t)
	t.Parallel()
	for transport, want := range map[string]string{
		"nbd":   "nbd0  1 squashfs",
		"iscsi": "sda iscsi 1 squashfs",
		"http":  "loop0  1 squashfs",
	} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			r := machine{Transport: transport}.boot(limit(t, bootLimit), t, "lsblk -rno NAME,TRAN,RO,FSTYPE; systemctl is-system-running --wait")
			if r.err != nil || r.stdout != want+"\nrunning\n" {
				t.Errorf("want %s and running: %s", want, r.all())
			}
		})
	}
}

package kmod_test

import (
	"slices"
	"testing"
	"testing/fstest"

	"netroot/internal/kmod"
)

// The lines are those of the distributions' own files, and the order of the directories is that of
// modprobe.d(5).
func TestKeptOut(t *testing.T) {
	tree := fstest.MapFS{}
	for name, text := range map[string]string{
		"etc/modprobe.d/site.conf":         "# a comment\nblacklist snd-pcsp\n  blacklist  e1000e \nblacklist\nblacklist a b\nalias net-pf-3 off\noptions nbd nbds_max=1\n",
		"etc/modprobe.d/off.conf":          "install mlx4_core /bin/true\ninstall dccp \\\n /bin/false # why\ninstall floppy modprobe -i floppy\ninstall usb-storage :\n",
		"etc/modprobe.d/hidden.conf":       "",
		"usr/lib/modprobe.d/hidden.conf":   "blacklist hidden\n",
		"usr/lib/modprobe.d/vendor.conf":   "blacklist e1000e\nblacklist evbug",
		"etc/modprobe.d/readme":            "blacklist readme\n",
		"lib/modprobe.d/fbdev.conf/x.conf": "blacklist nested\n",
	} {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	want := []string{"dccp", "e1000e", "evbug", "mlx4_core", "snd_pcsp", "usb_storage"}
	if got := kmod.KeptOut(tree); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := kmod.KeptOut(fstest.MapFS{}); got != nil {
		t.Errorf("of nothing: %q", got)
	}
}

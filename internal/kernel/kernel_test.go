package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// makeTree makes a tree from lines "path", "path = content", "path/" and "link -> target".
func makeTree(t *testing.T, lines ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, line := range lines {
		var err error
		name, target, isLink := strings.Cut(line, " -> ")
		name, content, _ := strings.Cut(name, " = ")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		switch {
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(content+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// debian returns the lines of a small Debian tree with a merged /usr, followed by others.
func debian(lines ...string) []string {
	return append([]string{"usr/lib/modules/", "lib -> usr/lib", "boot/", "var/lib/dpkg/status",
		"var/lib/dpkg/arch = arm64", "usr/lib/os-release = ID=debian", "etc/os-release -> ../usr/lib/os-release"}, lines...)
}

func fedora(lines ...string) []string {
	return append([]string{"usr/lib/modules/", "lib -> usr/lib", "boot/", "usr/lib/os-release = NAME=x\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"",
		"etc/os-release -> /usr/lib/os-release"}, lines...)
}

func TestFind(t *testing.T) {
	for name, tt := range map[string]struct {
		tree    []string
		release string
		want    Kernel
		skipped string
	}{
		"debian, versions not names": {
			tree: debian("boot/vmlinuz-6.1.0-9-amd64", "boot/vmlinuz-6.1.0-56-amd64", "boot/config-6.1.0-56-amd64 = CONFIG_SQUASHFS=m",
				"lib/modules/6.1.0-9-amd64/modules.dep", "lib/modules/6.1.0-56-amd64/modules.dep",
				"vmlinuz -> boot/vmlinuz-6.1.0-9-amd64", "boot/vmlinuz-6.1.0-56-amd64.sha256sum"),
			want: Kernel{Release: "6.1.0-56-amd64", Image: "boot/vmlinuz-6.1.0-56-amd64", ModuleDir: "usr/lib/modules/6.1.0-56-amd64",
				Config: Config{"SQUASHFS": "m"}},
			skipped: "kernel 6.1.0-56-amd64.sha256sum in ",
		},
		"debian 14, in both places": {
			tree: debian("usr/lib/modules/7.2.13+deb14-amd64/vmlinuz", "usr/lib/modules/7.2.13+deb14-amd64/modules.dep",
				"usr/lib/modules/7.2.9+deb14-amd64/vmlinuz", "usr/lib/modules/7.2.9+deb14-amd64/modules.dep",
				"boot/vmlinuz-7.2.9+deb14-amd64", "usr/lib/modules/7.2.13+deb14-amd64/config = CONFIG_EROFS_FS=m"),
			want: Kernel{Release: "7.2.13+deb14-amd64", Image: "usr/lib/modules/7.2.13+deb14-amd64/vmlinuz",
				ModuleDir: "usr/lib/modules/7.2.13+deb14-amd64", Config: Config{"EROFS_FS": "m"}},
		},
		"asked for": {
			tree: debian("boot/vmlinuz-6.1.0-9-amd64", "boot/vmlinuz-6.1.0-56-amd64",
				"lib/modules/6.1.0-9-amd64/modules.dep", "lib/modules/6.1.0-56-amd64/modules.dep"),
			release: "6.1.0-9-amd64",
			want:    Kernel{Release: "6.1.0-9-amd64", Image: "boot/vmlinuz-6.1.0-9-amd64", ModuleDir: "usr/lib/modules/6.1.0-9-amd64"},
		},
		"newest without depmod": {
			tree: debian("boot/vmlinuz-6.1.0-9-amd64", "boot/vmlinuz-6.1.0-56-amd64",
				"lib/modules/6.1.0-9-amd64/modules.dep", "lib/modules/6.1.0-56-amd64/kernel/"),
			want:    Kernel{Release: "6.1.0-9-amd64", Image: "boot/vmlinuz-6.1.0-9-amd64", ModuleDir: "usr/lib/modules/6.1.0-9-amd64"},
			skipped: "usr/lib/modules/6.1.0-56-amd64/modules.dep is missing: run `depmod 6.1.0-56-amd64` in the recipe",
		},
		"unmerged, arm64": {
			tree: []string{"lib/modules/6.6.1/modules.dep", "boot/Image-6.6.1.gz", "usr/lib/modules/"},
			want: Kernel{Release: "6.6.1", Image: "boot/Image-6.6.1.gz", ModuleDir: "lib/modules/6.6.1"},
		},
		"el, only in the module directory": {
			tree: fedora("usr/lib/modules/5.14.0-70.el9.x86_64/modules.dep", "usr/lib/modules/5.14.0-70.el9.x86_64/vmlinuz",
				"usr/lib/modules/5.14.0-503.11.1.el9_5.x86_64/modules.dep", "usr/lib/modules/5.14.0-503.11.1.el9_5.x86_64/vmlinuz",
				"usr/lib/modules/5.14.0-503.11.1.el9_5.x86_64/config = CONFIG_OVERLAY_FS=m", "boot/vmlinuz-0-rescue-0123"),
			want: Kernel{Release: "5.14.0-503.11.1.el9_5.x86_64", Image: "usr/lib/modules/5.14.0-503.11.1.el9_5.x86_64/vmlinuz",
				ModuleDir: "usr/lib/modules/5.14.0-503.11.1.el9_5.x86_64", Config: Config{"OVERLAY_FS": "m"}},
		},
		"absolute and climbing links stay inside": {
			tree: fedora("boot/vmlinuz-6.11.4 -> /lib/modules/6.11.4/vmlinuz", "usr/lib/modules/6.11.4/vmlinuz -> ../../../../../../../../boot/real",
				"boot/real", "usr/lib/modules/6.11.4/modules.dep -> /x/modules.dep", "x/modules.dep"),
			want: Kernel{Release: "6.11.4", Image: "boot/real", ModuleDir: "usr/lib/modules/6.11.4"},
		},
		"dangling link in boot": {
			tree: fedora("boot/vmlinuz-6.11.4 -> /nowhere", "usr/lib/modules/6.11.4/vmlinuz", "usr/lib/modules/6.11.4/modules.dep"),
			want: Kernel{Release: "6.11.4", Image: "usr/lib/modules/6.11.4/vmlinuz", ModuleDir: "usr/lib/modules/6.11.4"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Find(makeTree(t, tt.tree...), tt.release)
			if err != nil {
				t.Fatal(err)
			}
			var skipped string
			if len(got.Skipped) == 1 {
				skipped = got.Skipped[0].Error()
			}
			if (tt.skipped == "") != (len(got.Skipped) == 0) || !strings.Contains(skipped, tt.skipped) {
				t.Errorf("skipped %v, want %q", got.Skipped, tt.skipped)
			}
			got.Skipped, got.Others = nil, nil
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFlavours checks which of several kernels is taken, and that the others are named.
func TestFlavours(t *testing.T) {
	for _, c := range []struct {
		system func(...string) []string
		order  string // the first is taken
	}{
		{debian, "6.1.0-56-arm64 6.1.0-56-rt-arm64 6.1.0-56-cloud-arm64"},
		{debian, "6.1.0-57-cloud-arm64 6.1.0-56-arm64"},
		{debian, "6.12.38+deb13-arm64 6.12.38+deb13-rt-arm64 6.12.38+deb13-cloud-arm64 6.12.37+deb13-arm64"},
		{debian, "6.1.0-56-686-pae 6.1.0-56-rt-686-pae 6.1.0-56-686"},
		{debian, "5.15.0-91-generic 5.15.0-91-lowlatency 5.15.0-90-generic 5.15.0-1034-kvm"},
		{fedora, "6.4.0-150600.23.47-default 6.4.0-150600.23.47-rt 6.4.0-150600.23.47-azure 6.4.0-150600.8.20-azure"},
		{fedora, "5.14.0-503.el9.x86_64 5.14.0-503.el9.x86_64+rt 5.14.0-503.el9.x86_64+64k"},
	} {
		want := strings.Fields(c.order)
		lines := c.system()
		for _, r := range want {
			lines = append(lines, "boot/vmlinuz-"+r, "usr/lib/modules/"+r+"/modules.dep")
		}
		dir := makeTree(t, lines...)
		k, err := Find(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, append([]string{k.Release}, k.Others...)); diff != "" {
			t.Error(diff)
		}
		if k, err := Find(dir, want[1]); err != nil || k.Release != want[1] || k.Others != nil {
			t.Errorf("asked for %s: %+v, %v", want[1], k, err)
		}
	}
}

func TestFindErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		tree    []string
		release string
		want    []string
	}{
		"none in debian": {debian("vmlinuz -> boot/vmlinuz-6.1.0-9-arm64"), "", []string{"no kernel in ", "install linux-image-arm64"}},
		"none in el":     {fedora(), "", []string{"install kernel"}},
		"none somewhere": {nil, "", []string{"linux-image-", "kernel on Fedora and EL"}},
		"absent": {debian("boot/vmlinuz-6.1.0-9-arm64", "boot/vmlinuz-6.1.0-56-arm64"), "6.1.0-57-arm64",
			[]string{"no kernel 6.1.0-57-arm64 in ", "it has 6.1.0-56-arm64, 6.1.0-9-arm64"}},
		"outside": {debian("boot/vmlinuz-6.1.0-9-arm64"), "../../etc/passwd", []string{"no kernel ../../etc/passwd"}},
		"asked for without modules": {debian("boot/vmlinuz-6.1", "boot/vmlinuz-6.2", "lib/modules/6.1/modules.dep"), "6.2",
			[]string{"kernel 6.2 in ", "has no modules: lib/modules/6.2 is missing"}},
		"none complete": {debian("boot/vmlinuz-6.1", "boot/vmlinuz-6.2", "lib/modules/6.1/kernel/"), "",
			[]string{"lib/modules/6.2 is missing", "run `depmod 6.1`"}},
		"link loop": {debian("boot/vmlinuz-6.1 -> vmlinuz-6.1"), "", []string{"no kernel in "}},
		"broken config": {debian("boot/vmlinuz-6.1", "lib/modules/6.1/modules.dep", "boot/config-6.1 = CONFIG_A=y\nnonsense"), "",
			[]string{"boot/config-6.1: line 2 is not a kernel option"}},
	} {
		t.Run(name, func(t *testing.T) {
			k, err := Find(makeTree(t, tt.tree...), tt.release)
			if err == nil {
				t.Fatalf("found %+v", k)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q", err, want)
				}
			}
		})
	}
	if _, err := Find(filepath.Join(t.TempDir(), "nowhere"), ""); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("missing tree: %v", err)
	}
}

// TestResolve checks that a link in a tree never leads to a file of the host.
func TestResolve(t *testing.T) {
	dir := makeTree(t, "etc/", "a -> /etc/passwd", "b -> ../../../../../../../../etc/passwd", "c -> /", "d -> c/e/..", "e/f")
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	tr := &tree{root: root, dir: dir}
	for name, want := range map[string]string{"/e//f": "e/f", "c/e/f": "e/f", "d/e/../e/./f": "e/f", "../..": ".", "c/c/c": "."} {
		if got, err := tr.resolve(name); err != nil || got != want {
			t.Errorf("resolve(%s) = %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"a", "b", "c/a"} {
		if got, err := tr.resolve(name); !os.IsNotExist(err) {
			t.Errorf("resolve(%s) = %q, %v: led out of the tree", name, got, err)
		}
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig(strings.NewReader("#\n# Automatically generated\n\nCONFIG_CC_VERSION_TEXT=\"gcc (Debian) 12\"\n" +
		"CONFIG_SQUASHFS=m\nCONFIG_OVERLAY_FS=y\n# CONFIG_SQUASHFS_ZSTD is not set\nCONFIG_HZ=250\nCONFIG_EMPTY=\"\"\nCONFIG_NO=n\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{"CC_VERSION_TEXT": "gcc (Debian) 12", "SQUASHFS": "m", "OVERLAY_FS": "y", "HZ": "250", "EMPTY": "", "NO": "n"}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]bool{"SQUASHFS": true, "OVERLAY_FS": true, "SQUASHFS_ZSTD": false, "HZ": false, "NO": false} {
		if c.Enabled(name) != want {
			t.Errorf("Enabled(%s) = %v", name, !want)
		}
	}
	if Config(nil).Enabled("SQUASHFS") {
		t.Error("nothing is known, yet SQUASHFS is enabled")
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("CONFIG_A=y\nCONFIG_B=\"x\"\n")
	f.Add("CONFIG_=y")
	f.Add("\x1f\x8b\x08")
	f.Fuzz(func(t *testing.T, src string) {
		c, err := ParseConfig(strings.NewReader(src))
		for name := range c {
			if name == "" || err != nil {
				t.Errorf("%q gives %v, %v", src, c, err)
			}
		}
	})
}

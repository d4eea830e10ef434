package dracut

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/internal/handoff"
)

// plant makes a tree with these files in it.
func plant(t *testing.T, files ...string) tree {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		name := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return tree{root}
}

// module is a file of a module of dracut.
func moduleFile(name string) string { return modulesDir + "/" + name + "/module-setup.sh" }

func TestAttaches(t *testing.T) {
	const dpkg, rpm = "/var/lib/dpkg/status", "/usr/bin/rpm"
	iscsi := []string{moduleFile("95iscsi"), "/usr/sbin/iscsi-iname", "/usr/bin/iscsiadm", "/usr/sbin/iscsid"}
	for _, test := range []struct {
		name            string
		transport       handoff.Transport
		files           []string
		module, lacking string
	}{
		{"all of it", handoff.ISCSI, iscsi, "iscsi", ""},
		{"no program", handoff.NBD, []string{moduleFile("95nbd"), dpkg}, "", "install nbd-client (nbd-client is missing)"},
		{"no program of RPM", handoff.NBD, []string{moduleFile("95nbd"), rpm}, "", "install nbd (nbd-client is missing)"},
		{"no module", handoff.NBD, []string{"/usr/sbin/nbd-client", dpkg}, "", "install nbd-client and dracut-network (its module nbd is missing)"},
		{"neither", handoff.ISCSI, append(iscsi[1:], rpm), "", "install iscsi-initiator-utils and dracut-network (its module iscsi is missing)"},
		{"one of two", handoff.NFS, []string{moduleFile("95nfs"), "/sbin/rpcbind", "/sbin/rpc.statd", "/sbin/mount.nfs", "/usr/sbin/mount.nfs4"}, "nfs", ""},
		{"a tree of nobody's", handoff.NFS, []string{moduleFile("95nfs"), "/sbin/rpc.statd"}, "", "install nfs-common (Debian, Ubuntu), or nfs-utils (Enterprise Linux, Fedora) (rpcbind or portmap, mount.nfs, mount.nfs4 is missing)"},
		{"another's module", handoff.NBD, []string{moduleFile("95xnbd"), "/usr/sbin/nbd-client", dpkg}, "", "install nbd-client and dracut-network (its module nbd is missing)"},
		{"ours", handoff.HTTP, nil, "", ""},
		{"ours, too", handoff.NVMe, nil, "", ""},
	} {
		module, lacking := plant(t, test.files...).attaches(test.transport)
		if module != test.module || lacking != test.lacking {
			t.Errorf("%s: %q, %q", test.name, module, lacking)
		}
	}
}

func TestNetwork(t *testing.T) {
	network, dpkg := moduleFile("40network"), "/var/lib/dpkg/status"
	manager := []string{moduleFile("35network-manager"), "/usr/libexec/nm-initrd-generator"}
	legacy := []string{moduleFile("35network-legacy"), "/sbin/dhclient", "/bin/ip", "/usr/bin/arping"}
	networkd := []string{moduleFile("01systemd-networkd"), "/usr/lib/systemd/systemd-networkd", "/usr/bin/dbus-daemon"}
	for _, test := range []struct {
		name  string
		files [][]string
		want  string // a module, or part of the error
	}{
		{"Debian", [][]string{legacy, networkd}, "network-legacy"},
		{"Enterprise Linux", [][]string{manager, legacy}, "network-manager"},
		{"systemd alone", [][]string{networkd}, "systemd-networkd"},
		{"a DHCP client is missing", [][]string{legacy[2:], networkd[:2]}, "install dracut-network, isc-dhcp-client and iputils-arping"},
	} {
		files := append(slices.Concat(test.files...), network, dpkg)
		got, err := plant(t, files...).network()
		if err == nil && !slices.Equal(got, []string{test.want}) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v", test.name, got, err)
		}
	}
	if got, err := plant(t, legacy...).network(); err == nil || !strings.Contains(err.Error(), "has no network") {
		t.Errorf("without the module network: %v, %v", got, err)
	}
}

func TestMakeWantsDracut(t *testing.T) {
	tree := plant(t, "/usr/bin/rpm")
	_, err := Make(t.Context(), Options{Tree: tree.root.Name()})
	if err == nil || !strings.Contains(err.Error(), "the tree has no dracut") || !strings.Contains(err.Error(), "dracut, dracut-network and NetworkManager") {
		t.Error(err)
	}
}

func TestWhatDracutSaid(t *testing.T) {
	const said = `dracut: Executing: /usr/bin/dracut --force
dracut: dracut module 'mksh' will not be installed, because command 'mksh' could not be found!
dracut: *** Including module: systemd ***
dracut: *** Including module: nbd ***
dracut: module 'x' cannot be found or installed.
dracut: *** Including modules done ***
`
	if got := includes(said); !slices.Equal(got, []string{"systemd", "nbd"}) {
		t.Errorf("includes %v", got)
	}
	if got := complaint(said); got != ": module 'x' cannot be found or installed." {
		t.Errorf("complains %q", got)
	}
	if got := complaint(""); got != "" {
		t.Errorf("complains %q of nothing", got)
	}
}

// The module is complete, and can be run, wherever it is put.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	init := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(init, []byte("program"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Install(root, moduleName, init); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, moduleName))
	if err != nil || len(entries) != len(scripts(t))+1 {
		t.Errorf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o755 {
			t.Errorf("%s: %v, %v", e.Name(), info, err)
		}
	}
}

// cpioArchive is what cpio makes of a few files.
func cpioArchive(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"a": "hello", "empty": "", "b": strings.Repeat("x", 70001)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "c"))
	os.Symlink("a", filepath.Join(dir, "link"))
	cmd := exec.Command("cpio", "--quiet", "-o", "-H", "newc")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader("a\nempty\nb\nc\nlink\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTimeless(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		missing(t, "cpio")
	}
	archive := cpioArchive(t)
	var out bytes.Buffer
	if err := timeless(&out, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	// cpio fills up its last block; the archive has no need of that.
	if out.Len() > len(archive) || out.Len() < len(archive)-512 {
		t.Errorf("%d bytes of %d", out.Len(), len(archive))
	}
	list := exec.Command("cpio", "--quiet", "-itv")
	list.Stdin = &out
	list.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	text, err := list.Output()
	if err != nil || strings.Count(string(text), "Jan  1  1970") != 5 || !strings.Contains(string(text), "70001") || !strings.Contains(string(text), "link -> a") {
		t.Errorf("%v\n%s", err, text)
	}
	for _, n := range []int{0, 50, 115, 300, len(archive) - 600} {
		if err := timeless(io.Discard, bytes.NewReader(archive[:n])); err == nil {
			t.Errorf("%d bytes of an archive are taken for all of it", n)
		}
	}
}

// An archive that goes through is as long as before, but for what follows its end, and going
// through again changes nothing.
func FuzzTimeless(f *testing.F) {
	header := func(name, size int) string {
		b := []byte(cpioMagic + strings.Repeat("00000001", 13))
		for field, n := range map[int]int{cpioName: name, cpioSize: size} {
			copy(b[len(cpioMagic)+8*field:], []byte{'0', '0', '0', '0', '0', '0', '0', "0123456789abcdef"[n]})
		}
		return string(b)
	}
	f.Add([]byte(header(11, 0) + cpioEnd + "\x00\x00\x00"))
	f.Add([]byte(header(2, 3) + "a\x00\x00\x00" + "abc\x00" + header(11, 0) + cpioEnd + "\x00\x00\x00"))
	f.Add([]byte("070701ffffffffffffffffffffffff"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		var once, twice bytes.Buffer
		if timeless(&once, bytes.NewReader(archive)) != nil {
			return
		}
		if once.Len() > len(archive) {
			t.Errorf("%d bytes of %d", once.Len(), len(archive))
		}
		if err := timeless(&twice, bytes.NewReader(once.Bytes())); err != nil || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Errorf("again: %v, %d bytes of %d", err, twice.Len(), once.Len())
		}
	})
}

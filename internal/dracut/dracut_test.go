package dracut

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
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
	daemon := []string{"/bin/ip", "/usr/lib/systemd/systemd-networkd", "/usr/lib/systemd/systemd-network-generator"}
	// The modules of systemd-networkd: dracut 051, 059, and 106 or later.
	const (
		of051 = "01systemd-networkd=echo \"systemd kernel-network-modules\""
		of059 = "01systemd-networkd=systemd-network-generator\n    echo dbus kernel-network-modules systemd-sysusers"
		of112 = "11systemd-networkd=$dbussystem systemd-network-generator\n    echo net-lib kernel-network-modules systemd-sysusers systemd initqueue"
	)
	for _, test := range []struct {
		name     string
		files    [][]string
		networkd string // name and text of the module
		want     string // a module, or part of the error
	}{
		{"Debian 12", [][]string{legacy, daemon}, of059, "network-legacy"},
		{"Enterprise Linux", [][]string{manager, legacy}, "", "network-manager"},
		{"systemd and dbus", [][]string{daemon, {"/usr/bin/dbus-daemon"}}, of059, "systemd-networkd"},
		{"systemd alone", [][]string{daemon}, of112, "systemd-networkd"},
		{"Debian 13 without a DHCP client", [][]string{legacy[:1], daemon}, of112, "systemd-networkd"},
		{"a DHCP client is missing", [][]string{legacy[2:], legacy[:1], daemon}, of059, "install isc-dhcp-client and iputils-arping in"},
		{"nothing configures networkd", [][]string{legacy[2:], legacy[:1], daemon, {"/usr/bin/dbus-daemon"}}, of051, "install isc-dhcp-client and iputils-arping in"},
		{"Debian 14 without networkd", [][]string{daemon[:1]}, of112, "install systemd (with systemd-networkd) or network-manager in"},
	} {
		files := append(slices.Concat(test.files...), network, dpkg)
		root := plant(t, files...)
		if name, text, ok := strings.Cut(test.networkd, "="); ok {
			script := strings.TrimPrefix(moduleFile(name), "/")
			if err := root.root.MkdirAll(filepath.Dir(script), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := root.root.WriteFile(script, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := root.network()
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

// Both styles of messages: without levels up to dracut 059, with them since 106.
func TestComplaint(t *testing.T) {
	const plain = `dracut: Executing: /usr/bin/dracut --force
dracut: dracut module 'mksh' will not be installed, because command 'mksh' could not be found!
dracut: *** Including module: systemd ***
dracut: dracut module 'nbd' will not be installed, because command 'nbd-client' could not be found!
dracut: dracut module 'x' cannot be found or installed.
dracut: *** Including modules done ***
`
	const levels = `dracut[I]: Executing: /usr/bin/dracut --force
dracut[I]: Module 'iscsi' will not be installed, because kernel module 'iscsi_tcp' is not available!
dracut[E]: Module 'x' cannot be installed.
dracut[W]: something is odd
dracut[I]: *** Including module: systemd ***
`
	for _, test := range []struct{ said, module, want string }{
		{plain, "", ": dracut module 'x' cannot be found or installed."},
		{plain, "nbd", ": dracut module 'nbd' will not be installed, because command 'nbd-client' could not be found!"},
		{plain, "nb", ": dracut module 'x' cannot be found or installed."},
		{levels, "", ": Module 'x' cannot be installed."},
		{levels, "iscsi", ": Module 'iscsi' will not be installed, because kernel module 'iscsi_tcp' is not available!"},
		{levels + "dracut[F]: No space left\n" + levels, "nbd", ": No space left"},
		{"dracut[W]: odd\ndracut[I]: done\n", "", ": odd"},
		{"dracut[I]: done\n", "", ""},
		{"", "", ""},
	} {
		if got := complaint(test.said, test.module); got != test.want {
			t.Errorf("%q: %q", test.want, got)
		}
	}
}

func TestCheck(t *testing.T) {
	asked := []string{"network-legacy", "nbd", "netroot"}
	good := contents{init: true, modules: []string{"systemd", "network-legacy", "nbd", "base", "netroot"}}
	for _, test := range []struct {
		made contents
		want string
	}{
		{good, ""},
		{contents{modules: good.modules}, "dracut made an initramfs without /init: said"},
		{contents{init: true}, "dracut made an initramfs without a list of its modules (usr/lib/dracut/modules.txt)"},
		{contents{init: true, modules: good.modules[:3]}, "dracut left its module netroot out: said"},
	} {
		// What dracut prints of the modules does not count: the default of some versions is silence.
		err := test.made.check(asked, "dracut[E]: said\n")
		if got := fmt.Sprint(err); got != test.want && (err != nil || test.want != "") {
			t.Errorf("%q: %s", test.want, got)
		}
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
	if _, err := timeless(&out, bytes.NewReader(archive)); err != nil {
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
		if _, err := timeless(io.Discard, bytes.NewReader(archive[:n])); err == nil {
			t.Errorf("%d bytes of an archive are taken for all of it", n)
		}
	}
}

// file is a file of an archive that newc makes. Its name may have NULs at its end, as programs write
// them that align the data.
type file struct {
	name, data string
	mode       int // 0: a regular file
}

func newc(files ...file) string {
	var b strings.Builder
	for _, f := range append(files, file{name: cpioEnd}) {
		if f.mode == 0 {
			f.mode = 0o100755
		}
		name := f.name + "\x00"
		fmt.Fprintf(&b, "%s%08x%08x%024x%08x%08x%032x%08x%08x", cpioMagic, 1, f.mode, 1, 0x60000000, len(f.data), 0, len(name), 0)
		for _, part := range []string{strings.Repeat("h", cpioHeader) + name, f.data} {
			part = part + strings.Repeat("\x00", int(padded(int64(len(part))))-len(part))
			b.WriteString(strings.TrimPrefix(part, strings.Repeat("h", cpioHeader)))
		}
	}
	return b.String()
}

// An initramfs of several archives is copied to its end, whichever of them has /init.
func TestArchives(t *testing.T) {
	modules := file{name: "usr/lib/dracut/modules.txt", data: "systemd\nnbd\nnetroot\n"}
	drivers := newc(file{name: "usr/lib/modules/7.2/nbd.ko.xz", data: "compressed"}, file{name: "usr/lib/firmware/x\x00\x00\x00\x00", data: "aligned"})
	system := newc(file{name: ".", mode: 0o040755}, file{"init", "usr/lib/systemd/systemd", 0o120777}, modules)
	zeros := strings.Repeat("\x00", 512)
	all := contents{init: true, modules: []string{"systemd", "nbd", "netroot"}}
	for _, test := range []struct {
		name, archive string
		want          contents
		err           string
	}{
		{"one", system, all, ""},
		{"drivers first", drivers + system, all, ""},
		{"drivers first, and zeros between", drivers + zeros + system + zeros, all, ""},
		{"drivers last", system + drivers, all, ""},
		{"tables first", newc(file{name: "early_cpio", data: "1\n"}) + system, contents{init: true, early: true, modules: all.modules}, ""},
		{"other names", newc(file{name: "./init"}, file{name: "./lib/dracut/modules.txt", data: "base"}), contents{init: true, modules: []string{"base"}}, ""},
		{"no init", drivers, contents{}, ""},
		{"a directory", newc(file{name: "init", mode: 0o040755}), contents{}, ""},
		{"another init", newc(file{name: "usr/init"}), contents{}, ""},
		{"nothing", zeros, contents{}, "the initramfs is empty"},
		{"the second compressed", drivers + "\x28\xb5\x2f\xfd" + zeros, contents{}, "archive 2: it is compressed with zstd, though dracut was run with --no-compress"},
		{"compressed and short", "\x1f\x8b\x08\x00\x00\x00\x00", contents{}, "archive 1: it is compressed with gzip, though dracut was run with --no-compress"},
		{"the second is something else", drivers + "070707" + zeros, contents{}, "archive 2: it is not an archive of cpio's newc format"},
		{"the second ends early", drivers + system[:len(system)-4], contents{}, "archive 2: it ends without its trailer: unexpected EOF"},
		{"the second has no trailer", drivers + system[:len(system)-124], contents{}, "archive 2: it ends without its trailer: EOF"},
	} {
		var out bytes.Buffer
		got, err := timeless(&out, strings.NewReader(test.archive))
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, %v", test.name, got, err)
		}
		if want := strings.ReplaceAll(strings.ReplaceAll(test.archive, zeros, ""), "60000000", "00000000"); out.String() != want {
			t.Errorf("%s: %d bytes of %d", test.name, out.Len(), len(want))
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
	f.Add([]byte(header(11, 0) + cpioEnd + "\x00\x00\x00\x00"))
	f.Add([]byte(header(2, 3) + "a\x00\x00\x00" + "abc\x00" + header(11, 0) + cpioEnd + "\x00\x00\x00\x00"))
	f.Add([]byte(newc(file{name: "a\x00\x00", data: "b"}) + "\x00\x00\x00\x00" + newc(file{name: "init"})))
	f.Add([]byte("070701ffffffffffffffffffffffff"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		var once, twice bytes.Buffer
		if _, err := timeless(&once, bytes.NewReader(archive)); err != nil {
			return
		}
		if once.Len() > len(archive) {
			t.Errorf("%d bytes of %d", once.Len(), len(archive))
		}
		if _, err := timeless(&twice, bytes.NewReader(once.Bytes())); err != nil || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Errorf("again: %v, %d bytes of %d", err, twice.Len(), once.Len())
		}
	})
}

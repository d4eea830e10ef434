package dracut

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// missing skips a test that requires a foreign program, or fails it where all of them must exist.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: .ci/setup installs it", what)
	}
	t.Skipf("%s is missing", what)
}

func scripts(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("module/*.sh")
	if err != nil || len(found) == 0 {
		t.Fatalf("%v, %v", found, err)
	}
	return found
}

// dracut runs module-setup.sh with bash, and the hooks with whatever the distribution's sh is; all
// that these are have "local", as dash does.
func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		missing(t, "shellcheck")
	}
	for _, script := range scripts(t) {
		dialect := "dash"
		if filepath.Base(script) == "module-setup.sh" {
			dialect = "bash"
		}
		// SC1091: dracut's own libraries are not here to be followed.
		if out, err := exec.Command("shellcheck", "--shell", dialect, "--exclude", "SC1091", script).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// shells are those that an initramfs may have as its sh.
func shells(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{"bash": {"bash", "--posix"}, "dash": {"dash"}, "busybox": {"busybox", "sh"}}
	for name, argv := range out {
		if _, err := exec.LookPath(argv[0]); err != nil {
			missing(t, name)
		}
	}
	return out
}

// dracutLib is dracut's own library of shell functions, from the package dracut-core, with the
// other that it reads where it is here, and not where it is in an initramfs.
func dracutLib(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/dracut/modules.d/*base/dracut-lib.sh")
	if len(found) == 0 {
		missing(t, "dracut-core")
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	lib := filepath.Join(t.TempDir(), "dracut-lib.sh")
	text = bytes.ReplaceAll(text, []byte("/lib/dracut-dev-lib.sh"), []byte(filepath.Join(filepath.Dir(found[0]), "dracut-dev-lib.sh")))
	if err := os.WriteFile(lib, text, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dracut-getarg", "dracut-getargs"} { // which the library runs
		if err := os.Symlink("/usr/lib/dracut/dracut-util", filepath.Join(filepath.Dir(lib), name)); err != nil {
			t.Fatal(err)
		}
	}
	return lib
}

// inShell runs a script after dracut's library, as dracut does, in a root of its own (PREFIX), with
// a kernel command line.
func inShell(t *testing.T, shell []string, lib, prefix, cmdline, script string) string {
	t.Helper()
	script = `. "$LIB" && getcmdline() { printf '%s' "$LINE"; } && ` + script
	cmd := exec.Command(shell[0], append(shell[1:], "-c", script, "sh", prefix+"/normal", prefix+"/early", prefix+"/late")...)
	cmd.Env = append(os.Environ(), "LIB="+lib, "PREFIX="+prefix, "LINE="+cmdline, "PATH="+filepath.Dir(lib)+":"+os.Getenv("PATH"), "DRACUT_SYSTEMD=1", "hookdir=/lib/dracut/hooks")
	cmd.Dir = "module"
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", shell, err, out, errs.String())
	}
	return string(out)
}

// Roots that are ours go to the handler that dracut runs by their first word; others are left
// alone.
func TestCmdlineHook(t *testing.T) {
	lib := dracutLib(t)
	for name, shell := range shells(t) {
		for line, want := range map[string]string{
			"root=live:http://10.0.2.2/v1/blobs/sha256:ab ip=dhcp":                   "block:/dev/root live:http://10.0.2.2/v1/blobs/sha256:ab 1",
			"quiet root=live:nfs://a,b:2049/.images/ab rootfstype=squashfs":          "block:/dev/root live:nfs://a,b:2049/.images/ab 1",
			"root=nvme:10.0.2.2:4420:squashfs::nqn.x:y":                              "block:/dev/root nvme:10.0.2.2:4420:squashfs::nqn.x:y 1",
			"root=nbd:10.0.2.2:1:squashfs:ro":                                        "nbd:10.0.2.2:1:squashfs:ro  ",
			"root=live:/dev/sr0":                                                     "live:/dev/sr0  ",
			"root=/dev/sda netroot=iscsi:10.0.0.1::::iqn.x rd.iscsi.initiator=iqn.y": "/dev/sda  ",
		} {
			prefix := t.TempDir()
			for _, dir := range []string{"lib/dracut/hooks/initqueue/finished", "lib/dracut/hooks/emergency", "etc/systemd/system"} {
				if err := os.MkdirAll(filepath.Join(prefix, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			got := inShell(t, shell, lib, prefix, line, `. ./netroot-cmdline.sh && echo "$root $netroot $rootok"`)
			if got != want+"\n" {
				t.Errorf("%s: %s: %q, want %q", name, line, got, want)
			}
			_, err := os.Stat(filepath.Join(prefix, "lib/dracut/hooks/initqueue/finished/devexists-\\x2fdev\\x2froot.sh"))
			if ours := strings.HasPrefix(want, "block:"); ours != (err == nil) {
				t.Errorf("%s: %s: dracut waits for /dev/root: %v", name, line, err)
			}
		}
	}
}

// The generator says how /dev/root is mounted where it is ours, and in any case that it may be long
// in coming.
func TestGenerator(t *testing.T) {
	lib := dracutLib(t)
	const wait = "early/dev-root.device.d/netroot.conf\n[Unit]\nJobTimeoutSec=infinity\nJobRunningTimeoutSec=infinity\n"
	const mount = "early/initrd-root-fs.target.requires/sysroot.mount -> ../sysroot.mount\n" +
		"early/sysroot.mount\n[Unit]\nBefore=initrd-root-fs.target\n[Mount]\nWhere=/sysroot\nWhat=/dev/root\n"
	for name, shell := range shells(t) {
		for line, want := range map[string]string{
			"root=live:http://h/x rootfstype=erofs rootflags=noatime": wait + mount + "Type=erofs\nOptions=ro,noatime\n",
			"root=nvme:a:1:squashfs::nqn.x":                           wait + mount + "Options=ro\n",
			"root=nbd:a:1:squashfs:ro":                                wait,
			"":                                                        wait,
		} {
			prefix := t.TempDir()
			inShell(t, shell, lib, prefix, line, `. ./netroot-generator.sh`)
			if diff := cmp.Diff(want, listing(t, prefix)); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, line, diff)
			}
		}
	}
}

// systemd-networkd in the initramfs asks for the address of the boot interface, whatever its version
// makes of BOOTIF=. The file sorts before those of systemd-network-generator.
func TestGeneratorNetworkd(t *testing.T) {
	lib := dracutLib(t)
	file := func(mac string) string {
		return "[Match]\nMACAddress=" + mac + "\nKind=!*\n[Network]\nDHCP=ipv4\nKeepConfiguration=dhcp-on-stop\n[DHCPv4]\nClientIdentifier=mac\nSendRelease=no\n"
	}
	const mac, ib = "52-54-00-12-34-AB", "80-00-02-08-fe-80-00-00-00-00-00-00-f4-52-14-03-00-7b-cb-a1"
	for name, shell := range shells(t) {
		for line, want := range map[string]string{
			"ip=dhcp BOOTIF=01-" + mac:                                  file("52:54:00:12:34:AB"),
			"BOOTIF=01-" + mac:                                          file("52:54:00:12:34:AB"),
			"BOOTIF=" + mac + " ip=BOOTIF:dhcp":                         file("52:54:00:12:34:AB"),
			"BOOTIF=01-" + mac + " ip=::::n1:BOOTIF:dhcp":               file("52:54:00:12:34:AB"),
			"ip=dhcp BOOTIF=20-" + ib:                                   file(strings.ReplaceAll(ib, "-", ":")),
			"ip=dhcp":                                                   "",
			"BOOTIF=01-" + mac + " ip=eth1:dhcp":                        "",
			"BOOTIF=01-" + mac + " ip=10.0.0.5::10.0.0.1:24::eth0:none": "",
		} {
			for _, networkd := range []bool{true, false} {
				if !networkd && line != "ip=dhcp BOOTIF=01-"+mac {
					continue
				}
				prefix := t.TempDir()
				if networkd {
					program := filepath.Join(prefix, "usr/lib/systemd/systemd-networkd")
					if err := errors.Join(os.MkdirAll(filepath.Dir(program), 0o755), os.WriteFile(program, nil, 0o755)); err != nil {
						t.Fatal(err)
					}
				}
				inShell(t, shell, lib, prefix, line, `. ./netroot-generator.sh`)
				got, _ := os.ReadFile(filepath.Join(prefix, "run/systemd/network/00-netroot.network"))
				if networkd && string(got) != want || !networkd && len(got) > 0 {
					t.Errorf("%s: %s: networkd %v: %q, want %q", name, line, networkd, got, want)
				}
			}
		}
	}
}

// listing shows the files below a directory: names, contents, and where links lead.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if target, err := os.Readlink(path); err == nil {
			b.WriteString(rel + " -> " + target + "\n")
			return nil
		}
		text, err := os.ReadFile(path)
		b.WriteString(rel + "\n" + string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

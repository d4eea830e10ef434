package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/internal/export"
)

// dhcpSet is what machines at 10.99.0.1 are told.
func dhcpSet(t *testing.T, loader export.Loader) export.Set {
	t.Helper()
	set, err := export.Snippets(export.DHCP{TFTP: netip.MustParseAddr("10.99.0.1"), Script: dhcpScript, Loader: loader, Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

const dhcpScript = "http://10.99.0.1:8010/boot/debian12.ipxe"

// dhcpServer is a DHCP server with a snippet in its configuration.
type dhcpServer struct {
	name, debian string
	config       string   // %s: the snippet's path, %s: a directory
	snippet      int      // in the set
	check        []string // the command that judges a configuration; %s: its path
	run          []string // that serves the interface v0 in the foreground
}

var dhcpServers = []dhcpServer{
	{"dnsmasq", "dnsmasq-base", "conf-file=%s\nport=0\ninterface=v0\nbind-interfaces\ndhcp-range=10.99.0.10,10.99.0.20,255.255.255.0\ndhcp-leasefile=%s/leases\n", 0,
		[]string{"dnsmasq", "--test", "-C", "%s"}, []string{"dnsmasq", "--keep-in-foreground", "--user=root", "--pid-file=", "-C", "%s"}},
	{"dhcpd", "isc-dhcp-server", "include \"%s\";\nsubnet 10.99.0.0 netmask 255.255.255.0 { range 10.99.0.10 10.99.0.20; }\n# %s\n", 1,
		[]string{"dhcpd", "-t", "-cf", "%s"}, []string{"dhcpd", "-f", "-cf", "%s", "-lf", "%[2]s/leases", "-pf", "%[2]s/pid", "--no-pid", "v0"}},
	{"kea-dhcp4", "kea-dhcp4-server", `{"Dhcp4": {"interfaces-config": {"interfaces": ["v0"], "dhcp-socket-type": "raw"}, "lease-database": {"type": "memfile", "persist": false},
  "client-classes": <?include "%s"?>, "subnet4": [{"subnet": "10.99.0.0/24", "pools": [{"pool": "10.99.0.10 - 10.99.0.20"}]}], "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stderr"}]}]}}` + "\n// %s\n", 2,
		[]string{"kea-dhcp4", "-t", "%s"}, []string{"kea-dhcp4", "-c", "%s"}},
}

// prepare writes the server's configuration, and returns its commands.
func (s dhcpServer) prepare(t *testing.T, loader export.Loader) (check, run []string) {
	t.Helper()
	need(t, s.name, s.debian)
	dir := t.TempDir()
	f := dhcpSet(t, loader).Files[s.snippet]
	snippet, config := filepath.Join(dir, filepath.Base(f.Path)), filepath.Join(dir, "server.conf")
	for path, text := range map[string]string{snippet: f.Text, config: fmt.Sprintf(s.config, snippet, dir), filepath.Join(dir, "leases"): ""} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fill := func(argv []string) (out []string) {
		for _, a := range argv {
			out = append(out, strings.NewReplacer("%s", config, "%[2]s", dir).Replace(a))
		}
		return out
	}
	t.Setenv("KEA_PIDFILE_DIR", dir)
	t.Setenv("KEA_LOCKFILE_DIR", dir)
	return fill(s.check), fill(s.run)
}

// dhcpAnswers are what machines must be told by each loader: the boot file, and whether the TFTP
// server is named.
var dhcpAnswers = []struct {
	name            string
	arch            iana.Arch
	ipxe            bool
	byIPXE, byLinux string
}{
	{"BIOS", iana.INTEL_X86PC, false, "undionly.kpxe", "pxelinux.0"},
	{"BIOS, iPXE", iana.INTEL_X86PC, true, dhcpScript, "pxelinux.0"},
	{"UEFI", iana.EFI_BC, false, "ipxe.efi", "ipxe.efi"}, // 7, which all firmware says; 9 is what it should
	{"UEFI as registered", iana.EFI_X86_64, false, "ipxe.efi", "ipxe.efi"},
	{"UEFI, iPXE", iana.EFI_BC, true, dhcpScript, dhcpScript},
	{"UEFI of ARM", iana.EFI_ARM64, false, "", ""},
	{"no PXE", 0xffff, false, "", ""},
}

// TestExportDHCP has each server judge its snippet, and asks it what it tells machines, in a
// network namespace.
func TestExportDHCP(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	for _, s := range dhcpServers {
		for _, loader := range []export.Loader{export.IPXE, export.Pxelinux} {
			t.Run(s.name+"/"+string(loader), func(t *testing.T) {
				check, run := s.prepare(t, loader)
				inNetwork(t, func() {
					if out, err := exec.Command(check[0], check[1:]...).CombinedOutput(); err != nil || strings.Contains(strings.ToLower(string(out)), "warn") {
						t.Fatalf("%v\n%s", err, out)
					}
					askAll(t, loader, run)
				})
			})
		}
	}
}

// inNetwork runs fn in a network namespace with the ends v0, which has 10.99.0.1, and v1 of one
// cable. The thread is given up with it.
func inNetwork(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}
		err := netlink.LinkAdd(veth)
		for _, name := range []string{"lo", "v0", "v1"} {
			link, lerr := netlink.LinkByName(name)
			if err = errors.Join(err, lerr); err != nil {
				t.Error(err)
				return
			}
			err = netlink.LinkSetUp(link)
		}
		addr, aerr := netlink.ParseAddr("10.99.0.1/24")
		if err = errors.Join(err, aerr, netlink.AddrAdd(veth, addr)); err != nil {
			t.Error(err)
			return
		}
		fn()
	}()
	<-done
}

// askAll runs a server and asks it as each kind of machine.
func askAll(t *testing.T, loader export.Loader, run []string) {
	var said bytes.Buffer
	cmd := exec.Command(run[0], run[1:]...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // this thread's death
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		cancel() // no server answers any more
		close(ended)
	}()
	defer func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log(said.String())
		}
	}()
	// It listens when it answers: questions are repeated until then.
	client, err := nclient4.New("v1", nclient4.WithTimeout(300*time.Millisecond), nclient4.WithRetry(1))
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	for _, a := range dhcpAnswers {
		options := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionBootfileName, dhcpv4.OptionTFTPServerName)}
		if a.arch != 0xffff {
			options = append(options, dhcpv4.WithOption(dhcpv4.OptClientArch(a.arch)), dhcpv4.WithOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("PXEClient:Arch:%05d:UNDI:002001", a.arch))))
		}
		if a.ipxe {
			options = append(options, dhcpv4.WithGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE")), dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(175), []byte{0x13, 1, 1}))
		}
		offer, err := client.DiscoverOffer(ctx, options...)
		for ; err != nil && ctx.Err() == nil; offer, err = client.DiscoverOffer(ctx, options...) {
		}
		if err != nil {
			t.Errorf("%s: %v", a.name, err)
			return
		}
		want := a.byIPXE
		if loader == export.Pxelinux {
			want = a.byLinux
		}
		file := strings.TrimRight(offer.BootFileName, "\x00")
		if file == "" {
			file = strings.TrimRight(string(offer.Options.Get(dhcpv4.OptionBootfileName)), "\x00")
		}
		if file != want {
			t.Errorf("%s: is told %q, want %q", a.name, file, want)
		}
		if byTFTP := want != "" && !strings.HasPrefix(want, "http"); byTFTP && !offer.ServerIPAddr.Equal(net.IPv4(10, 99, 0, 1)) {
			t.Errorf("%s: is sent to %s", a.name, offer.ServerIPAddr)
		}
	}
}

package vm

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/serve"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/testlog"
)

// guestURL returns the URL that a machine uses for a server on this host's loopback.
func guestURL(url string) string { return strings.Replace(url, "127.0.0.1", GuestHost, 1) }

func bootContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A machine with either firmware fetches the script that DHCP names, and tells what it runs on when
// the script asks.
func TestFirmwareRunsScript(t *testing.T) {
	const uuid = "4c4c4544-0042-3510-8053-b4c04f4d4e31"
	for _, firmware := range []boot.Firmware{boot.BIOS, boot.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			needBoot(t, firmware)
			queries := make(chan string, 8)
			mux := http.NewServeMux()
			server := httptest.NewServer(mux)
			defer server.Close()
			url := boot.ScriptURL(strings.TrimPrefix(guestURL(server.URL), "http://"), "debian@0123456789ab", false)
			mux.HandleFunc("/boot/debian@0123456789ab.ipxe", func(w http.ResponseWriter, r *http.Request) {
				queries <- r.URL.RawQuery
				if r.URL.RawQuery != "" {
					w.Write([]byte("#!ipxe\npoweroff || exit\n"))
					return
				}
				w.Write([]byte(boot.Ask(url)))
			})
			var console testlog.Buffer
			m, err := Start(bootContext(t), Config{
				Bootfile: url, Firmware: firmware, Accel: AccelTCG, Mem: 256, Serial: &console,
				Args: []string{"-smbios", "type=1,uuid=" + uuid + ",serial=a b&c+d", "-smbios", "type=3,asset=Default string"},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Kill()
			for _, told := range []bool{false, true} {
				select {
				case query := <-queries:
					got, says := boot.ParseMachine("", "", query)
					want := boot.Machine{}
					if told {
						want = boot.Machine{MAC: "52:54:00:12:34:56", UUID: uuid, Serial: "a b&c+d", Firmware: firmware}
						if firmware == boot.UEFI {
							want.Arch = "amd64"
						}
					}
					if says != told || got != want {
						t.Errorf("%s: %+v, not %+v", query, got, want)
					}
				case <-m.Done():
					t.Fatalf("ended: %v\n%s", m.Wait(), m.Tail())
				}
			}
			if s := console.String(); !strings.Contains(s, "iPXE") {
				t.Errorf("console:\n%s", plain(s))
			}
		})
	}
}

// A machine that is refused, and one whose kernel cannot be fetched, say so and try again until
// they succeed.
func TestMachineAsksAgain(t *testing.T) {
	needBoot(t, boot.BIOS)
	ctx := bootContext(t)
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	defer server.Close()
	host := strings.TrimPrefix(guestURL(server.URL), "http://")
	url := boot.ScriptURL(host, "debian", true)
	digest := handoff.Digest("sha256:" + strings.Repeat("0", 64))
	plan, err := boot.Decide(boot.Machine{Server: host, Ref: "debian", Virtio: true},
		boot.Image{Name: "debian@0123", Transports: []handoff.Transport{handoff.NBD}, Kernel: boot.File{Name: "vmlinuz", Digest: digest}, Initrds: []boot.File{{Name: "initramfs", Digest: digest}}},
		boot.Settings{Ports: boot.StandardPorts()})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan string, 3)
	answers <- boot.Refusal(`no "debian" yet; # build || it`, url, 0, 0.5)
	answers <- plan.IPXE() // the server does not have this blob
	answers <- "#!ipxe\nchain http://" + host + "/seen ||\n"
	seen := make(chan struct{}, 1)
	mux.HandleFunc("/boot/debian.ipxe", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(<-answers)) })
	mux.HandleFunc("/seen", func(w http.ResponseWriter, r *http.Request) { seen <- struct{}{} })
	var console testlog.Buffer
	m, err := Start(ctx, Config{Bootfile: url, Accel: AccelTCG, Mem: 256, Serial: &console})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	select {
	case <-seen:
	case <-m.Done():
		t.Fatalf("ended: %v\n%s", m.Wait(), m.Tail())
	}
	text := plain(console.String())
	for _, want := range []string{`netroot: no "debian" yet; '#' build '||' it`, "netroot: could not boot debian@0123", "trying again in 5 seconds"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q on the console:\n%s", want, text)
		}
	}
}

// TestKernelStarts runs all of boot and serve before the root: plan, script, kernel and several
// initial RAM file systems.
func TestKernelStarts(t *testing.T) {
	for _, firmware := range []boot.Firmware{boot.BIOS, boot.UEFI} {
		t.Run(string(firmware), func(t *testing.T) {
			needBoot(t, firmware)
			kernel := needKernel(t)
			dir := t.TempDir()
			image, err := os.ReadFile(kernel)
			if err != nil {
				t.Fatal(err)
			}
			parts := []store.Part{
				part(t, dir, store.RoleKernel, image),
				part(t, dir, store.RoleInitramfs, busyboxInit(t)),
				part(t, dir, store.RoleInitramfsHardware, cpio(t, map[string]string{"second": "the second is here\n"})),
			}
			url := startServer(t, dir, parts)
			var console testlog.Buffer
			m, err := Start(bootContext(t), Config{
				Bootfile: boot.ScriptURL(url, "test", false), Firmware: firmware, Accel: AccelTCG, Mem: 512, Serial: &console,
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Wait(); err != nil { // init switches the machine off
				t.Fatal(err)
			}
			text := plain(console.String())
			for _, want := range []string{"the first is here", "the second is here", " root=nbd:10.0.2.2:", "/test@", " BOOTIF=01-52-54-00-12-34-56", "label=test"} {
				if !strings.Contains(text, want) {
					t.Errorf("no %q on the console:\n%s", want, m.Tail())
				}
			}
		})
	}
}

func TestProbeKVM(t *testing.T) {
	needBoot(t, boot.BIOS)
	if err := openKVM("/dev/kvm"); err != nil {
		t.Skip(err)
	}
	qemu, err := findQemu()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	works := probeKVM(t.Context(), qemu, needKernel(t))
	t.Logf("KVM works: %v, after %v", works, time.Since(started))
	if time.Since(started) > probeLimit+2*time.Second {
		t.Errorf("took %v", time.Since(started))
	}
}

func startServer(t *testing.T, dir string, parts []store.Part) (host string) {
	t.Helper()
	s, err := store.Create(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), "test", store.Config{Transports: []handoff.Transport{handoff.NBD}, RootFormat: "squashfs"}, parts); err != nil {
		t.Fatal(err)
	}
	web, err := serve.Listen("--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nbd, err := serve.Listen("--nbd", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := site.Empty()
	cfg.Labels["test"] = &site.Label{Name: "test", Cmdline: []string{"label=test"}}
	server, err := serve.New(serve.Config{Store: s, Site: cfg, Add: site.Additions{Console: []string{"ttyS0"}}}, web, map[handoff.Transport]net.Listener{handoff.NBD: nbd})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return guestURL(web.Addr().String())
}

func part(t *testing.T, dir string, role store.Role, content []byte) store.Part {
	t.Helper()
	file := filepath.Join(dir, string(role))
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return store.Part{Role: role, Path: file}
}

// needKernel finds a kernel with built-in drivers for a PC's serial port, as in all distributions.
func needKernel(t *testing.T) string {
	t.Helper()
	if k := os.Getenv("NETROOT_KERNEL"); k != "" {
		return k
	}
	found, _ := filepath.Glob("/boot/vmlinuz-*")
	if len(found) == 0 {
		t.Skip("no kernel in /boot: set NETROOT_KERNEL to the file of one")
	}
	return slices.Max(found)
}

func busyboxInit(t *testing.T) []byte {
	t.Helper()
	file, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip(err)
	}
	busybox, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return cpio(t, map[string]string{
		"busybox": string(busybox),
		"first":   "the first is here\n",
		"init": `#!/busybox sh
b=/busybox
$b mkdir /dev /proc
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
exec >/dev/ttyS0 2>&1
$b cat /first /second /proc/cmdline
$b poweroff -f
`})
}

func cpio(t *testing.T, files map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	names := ""
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		names += name + "\n"
	}
	cmd := exec.Command("cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(names)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Skipf("cpio: %v %s", err, &stderr)
	}
	return out.Bytes()
}

package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"netroot/internal/proto/iscsi"
	"netroot/internal/vm"
)

const iscsiName = "iqn.2026-01.org.example:root"

// iscsiDisk is 16 MiB of noise.
type iscsiDisk struct {
	data  []byte
	file  string
	chap  *iscsi.CHAP
	reads atomic.Int64
	wait  chan struct{} // when set, reads beyond the first few wait for it
	addr  string
}

func (d *iscsiDisk) Size() int64 { return int64(len(d.data)) }

func (d *iscsiDisk) ReadAt(p []byte, off int64) (int, error) {
	if d.reads.Add(1) > 4 && d.wait != nil {
		<-d.wait
	}
	return bytes.NewReader(d.data).ReadAt(p, off)
}

func (d *iscsiDisk) url() string { return "iscsi://" + d.addr + "/" + iscsiName + "/0" }

func newISCSIDisk(t *testing.T) *iscsiDisk {
	t.Helper()
	d := &iscsiDisk{data: make([]byte, 16<<20), file: filepath.Join(t.TempDir(), "disk")}
	rand.NewChaCha8([32]byte{2}).Read(d.data)
	if err := os.WriteFile(d.file, d.data, 0o644); err != nil {
		t.Fatal(err)
	}
	return d
}

// serve serves it on a port of 127.0.0.1, a free one when addr is "127.0.0.1:0". stop may be called
// twice.
func (d *iscsiDisk) serve(t *testing.T, addr string) (stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	root := iscsi.Target{Name: iscsiName, Description: "noise", ID: [16]byte{0xab, 0xcd, 15: 1}, Backend: d, CHAP: d.chap}
	s := &iscsi.Server{
		Lookup: func(_ context.Context, name string) (*iscsi.Target, error) {
			if name != iscsiName {
				return nil, fmt.Errorf("%w: %q", iscsi.ErrUnknown, name)
			}
			x := root
			return &x, nil
		},
		List: func(context.Context) ([]iscsi.Target, error) { return []iscsi.Target{root}, nil },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	var stopped bool
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func serveISCSI(t *testing.T, chap *iscsi.CHAP) *iscsiDisk {
	t.Helper()
	d := newISCSIDisk(t)
	d.chap = chap
	d.serve(t, "127.0.0.1:0")
	return d
}

func TestISCSITools(t *testing.T) {
	need(t, "iscsi-ls", "libiscsi-bin")
	d := serveISCSI(t, nil)
	for _, tt := range []struct {
		argv []string
		want []string
	}{
		{[]string{"iscsi-ls", "-s", "iscsi://" + d.addr},
			[]string{"Target:" + iscsiName + " Portal:" + d.addr + ",1", `Lun:0    Type:DIRECT_ACCESS \(Size:1[56]M\)`}},
		{[]string{"iscsi-inq", d.url()}, []string{"DIRECT_ACCESS", "Vendor:NETROOT", "CmdQue:1", "Removable:0"}},
		{[]string{"iscsi-inq", "-e", "1", "-c", "0", d.url()}, []string{"0x80", "0x83", "0xb0", "0xb1", "0xb2"}},
		{[]string{"iscsi-inq", "-e", "1", "-c", "128", d.url()}, []string{"abcd0000000000000000000000000001"}},
		{[]string{"iscsi-inq", "-e", "1", "-c", "131", d.url()}, []string{"NETROOT", iscsiName + ",t,0x0001"}},
		{[]string{"iscsi-readcapacity16", d.url()}, []string{"Total size:16777216", "BYTES:512", "EXPONENT:3", "LBPME:0"}},
	} {
		out := mustRun(t, tt.argv...)
		for _, want := range tt.want {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("%v: no %q in\n%s", tt.argv, want, out)
			}
		}
	}
	if out, err := command(t, "iscsi-inq", strings.Replace(d.url(), "root", "rot", 1)); err == nil || !strings.Contains(out, "Target not found") {
		t.Errorf("unknown target: %v\n%s", err, out)
	}
}

// needQemuISCSI: Debian has qemu's driver in a package of its own.
func needQemuISCSI(t *testing.T, d *iscsiDisk) {
	t.Helper()
	need(t, "qemu-img", "qemu-utils")
	need(t, "qemu-io", "qemu-utils")
	if out, err := command(t, "qemu-img", "info", d.url()); err != nil && strings.Contains(out, "Unknown protocol") {
		missing(t, "qemu's iSCSI driver", "qemu-block-extra")
	}
}

func TestISCSIQemu(t *testing.T) {
	d := serveISCSI(t, nil)
	needQemuISCSI(t, d)
	out := filepath.Join(t.TempDir(), "copy")
	mustRun(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", d.url(), out)
	equal(t, "qemu-img convert", out, d.data)
	mustRun(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", d.url(), d.file)
	if out := mustRun(t, "qemu-img", "info", d.url()); !strings.Contains(out, "virtual size: 16 MiB (16777216 bytes)") {
		t.Error(out)
	}
	for _, digest := range []string{"none", "crc32c", "crc32c-none", "none-crc32c"} {
		options := fmt.Sprintf("driver=raw,file.driver=iscsi,file.transport=tcp,file.portal=%s,file.target=%s,file.lun=0,file.header-digest=%s",
			d.addr, iscsiName, digest)
		mustRun(t, "qemu-io", "-r", "--image-opts", "-c", "aio_read 0 1M", "-c", "aio_read 1M 3M", "-c", "aio_flush", "-c", "read 16383K 1K", options)
	}
	if out, err := command(t, "qemu-io", "-f", "raw", "-c", "write 0 4k", d.url()); err == nil && !strings.Contains(out, "write protected") && !strings.Contains(out, "ead-only") {
		t.Errorf("a write went through:\n%s", out)
	}
}

// TestISCSIReconnect: the server dies under an initiator's reads and comes back; it logs in again
// and misses nothing.
func TestISCSIReconnect(t *testing.T) {
	d := newISCSIDisk(t)
	stop := d.serve(t, "127.0.0.1:0")
	needQemuISCSI(t, d)
	stop()
	d.wait = make(chan struct{})
	d.reads.Store(0)
	stop = d.serve(t, d.addr)
	out := filepath.Join(t.TempDir(), "copy")
	copied := make(chan error, 1)
	go func() {
		text, err := command(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", d.url(), out)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, text)
		}
		copied <- err
	}()
	begin := time.Now()
	for tick := time.Tick(time.Millisecond); d.reads.Load() < 6; <-tick { // some of them wait
		if time.Since(begin) > time.Minute {
			t.Fatal("qemu-img does not read")
		}
	}
	go func() { // reads that wait keep the server from ending
		<-time.After(100 * time.Millisecond)
		close(d.wait)
	}()
	stop()
	d.serve(t, d.addr)
	if err := <-copied; err != nil {
		t.Fatal(err)
	}
	equal(t, "qemu-img convert", out, d.data)
}

// TestISCSICHAP: libiscsi proves itself, and has the target prove itself.
func TestISCSICHAP(t *testing.T) {
	need(t, "iscsi-inq", "libiscsi-bin")
	d := serveISCSI(t, &iscsi.CHAP{Name: "node", Secret: "node-secret-12", PeerName: "server", PeerSecret: "server-secret-12"})
	inquire := func(user, peer string) (string, error) {
		url := d.url()
		if user != "" {
			url = "iscsi://" + user + "@" + strings.TrimPrefix(url, "iscsi://")
		}
		cmd := exec.CommandContext(t.Context(), "iscsi-inq", url)
		cmd.Env = os.Environ()
		if name, secret, ok := strings.Cut(peer, "%"); ok {
			cmd.Env = append(cmd.Env, "LIBISCSI_CHAP_TARGET_USERNAME="+name, "LIBISCSI_CHAP_TARGET_PASSWORD="+secret)
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, tt := range []struct {
		user, peer string
		ok         bool
	}{
		{"node%node-secret-12", "", true},
		{"node%node-secret-12", "server%server-secret-12", true},
		{"node%node-secret-12", "server%server-secret-13", false},
		{"node%node-secret-13", "", false},
		{"nobody%node-secret-12", "", false},
		{"", "", false},
	} {
		if out, err := inquire(tt.user, tt.peer); (err == nil) != tt.ok {
			t.Errorf("as %q, of %q: %v\n%s", tt.user, tt.peer, err, out)
		}
	}
}

// tgtd serves file as root's own, with or without accounts; it needs root and goes when the test
// does.
func tgtd(t *testing.T, file string) (addr string, admin func(args ...string)) {
	t.Helper()
	need(t, "tgtd", "tgt")
	if os.Geteuid() != 0 {
		t.Skip("tgtd needs root")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	control := strconv.Itoa(l.Addr().(*net.TCPAddr).Port & 0x7fff)
	l.Close()
	cmd := exec.Command("tgtd", "--foreground", "--control-port", control, "--iscsi", "portal="+addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.Remove("/var/run/tgtd/socket." + control)
		os.Remove("/var/run/tgtd/socket." + control + ".lock")
	})
	begin := time.Now()
	for tick := time.Tick(10 * time.Millisecond); exec.Command("tgtadm", "-C", control, "--op", "show", "--mode", "sys").Run() != nil; <-tick {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("tgtd does not listen")
		}
	}
	admin = func(args ...string) {
		t.Helper()
		mustRun(t, append([]string{"tgtadm", "-C", control, "--lld", "iscsi"}, args...)...)
	}
	admin("--op", "new", "--mode", "target", "--tid", "1", "--targetname", iscsiName)
	admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store", file)
	admin("--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "ALL")
	return addr, admin
}

// TestISCSILoginForeign logs in to tgtd, with and without CHAP, and reads the first block as the
// kernel would.
func TestISCSILoginForeign(t *testing.T) {
	d := newISCSIDisk(t)
	addr, admin := tgtd(t, d.file)
	login := func(chap *iscsi.CHAP, digests bool) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		s, err := iscsi.Login(ctx, conn, iscsi.LoginConfig{Initiator: "iqn.2026-01.org.example:node", Target: iscsiName,
			ISID: [6]byte{0x80, 1}, CHAP: chap, HeaderDigest: digests, DataDigest: digests})
		if err != nil {
			return err
		}
		if s.TSIH == 0 || s.PortalGroup != 1 || s.MaxSend != 8192 || s.HeaderDigest != digests || s.DataDigest != digests {
			t.Errorf("%+v", s)
		}
		if !digests {
			if got := firstBlock(t, conn, s); !bytes.Equal(got, d.data[:512]) {
				t.Errorf("first block %x", got)
			}
		}
		return nil
	}
	if err := login(nil, false); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"HeaderDigest", "DataDigest"} {
		admin("--op", "update", "--mode", "target", "--tid", "1", "--name", key, "--value", "CRC32C")
	}
	if err := errors.Join(login(nil, true), login(nil, false)); err != nil {
		t.Error(err)
	}
	admin("--op", "new", "--mode", "account", "--user", "node", "--password", "node-secret-12")
	admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", "node")
	if err := login(&iscsi.CHAP{Name: "node", Secret: "node-secret-12"}, false); err != nil {
		t.Error(err)
	}
	for _, chap := range []*iscsi.CHAP{nil, {Name: "node", Secret: "node-secret-13"}, {Name: "nobody", Secret: "node-secret-12"}} {
		if err := login(chap, false); !errors.Is(err, iscsi.ErrDenied) {
			t.Errorf("%+v: %v", chap, err)
		}
	}
	admin("--op", "new", "--mode", "account", "--user", "server", "--password", "server-secret-12")
	admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", "server", "--outgoing")
	mutual := iscsi.CHAP{Name: "node", Secret: "node-secret-12", PeerName: "server", PeerSecret: "server-secret-12"}
	if err := login(&mutual, false); err != nil {
		t.Error(err)
	}
	mutual.PeerSecret = "server-secret-13"
	if err := login(&mutual, false); !errors.Is(err, iscsi.ErrDenied) || !strings.Contains(err.Error(), "target: ") {
		t.Errorf("a target with another secret: %v", err)
	}
}

// firstBlock reads block 0 of LUN 1: tgtd's first disk. TEST UNIT READY comes before, for the unit
// attention that a new session gets.
func firstBlock(t *testing.T, conn net.Conn, s iscsi.Session) []byte {
	t.Helper()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	command := func(tag, expect uint32, flags byte, cdb string) (header, data []byte) {
		h := make([]byte, 48)
		h[0], h[1], h[9] = 0x01, flags, 1
		binary.BigEndian.PutUint32(h[16:], tag)
		binary.BigEndian.PutUint32(h[20:], expect)
		binary.BigEndian.PutUint32(h[24:], s.CmdSN+tag)
		binary.BigEndian.PutUint32(h[28:], s.ExpStatSN+tag)
		copy(h[32:], cdb)
		if _, err := conn.Write(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, h); err != nil {
			t.Fatal(err)
		}
		data = make([]byte, (int(binary.BigEndian.Uint32(h[4:])&0xffffff)+3)&^3)
		if _, err := io.ReadFull(conn, data); err != nil {
			t.Fatal(err)
		}
		return h, data
	}
	command(0, 0, 0x80, "\x00")
	h, data := command(1, 512, 0xc0, "\x28\x00\x00\x00\x00\x00\x00\x00\x01\x00")
	if h[0] != 0x25 {
		t.Fatalf("response % x", h)
	}
	return data
}

// TestISCSISanhook: iPXE, as the firmware of a machine, logs in and takes the disk as its own.
func TestISCSISanhook(t *testing.T) {
	if os.Getenv("NETROOT_BOOT") != "1" {
		t.Skip("boots a machine: set NETROOT_BOOT=1")
	}
	for name, chap := range map[string]*iscsi.CHAP{"open": nil, "chap": {Name: "node", Secret: "node-secret-12"}} {
		t.Run(name, func(t *testing.T) {
			d := serveISCSI(t, chap)
			_, port, _ := net.SplitHostPort(d.addr)
			seen := make(chan string, 8)
			mux := http.NewServeMux()
			server := httptest.NewServer(mux)
			defer server.Close()
			base := strings.Replace(server.URL, "127.0.0.1", vm.GuestHost, 1)
			account := ""
			if chap != nil {
				account = "set username node\nset password node-secret-12\n"
			}
			mux.HandleFunc("/script.ipxe", func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "#!ipxe\nset initiator-iqn iqn.2026-01.org.example:node\n%ssanhook --drive 0x80 iscsi:%s::%s:0:%s && chain %s/hooked ||\nchain %s/failed\n",
					account, vm.GuestHost, port, iscsiName, base, base)
			})
			for _, path := range []string{"/hooked", "/failed"} {
				mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { seen <- r.URL.Path })
			}
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			m, err := vm.Start(ctx, vm.Config{Bootfile: base + "/script.ipxe", Accel: vm.AccelTCG, Mem: 256, Serial: io.Discard})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Kill()
			select {
			case path := <-seen:
				if path != "/hooked" || d.reads.Load() == 0 {
					t.Errorf("%s after %d reads\n%s", path, d.reads.Load(), m.Tail())
				}
			case <-m.Done():
				t.Fatalf("ended: %v\n%s", m.Wait(), m.Tail())
			}
		})
	}
}

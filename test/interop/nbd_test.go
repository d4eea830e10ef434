package interop

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"netroot/internal/proto/nbd"
	"netroot/internal/vm"
)

// nbdDisk is 16 MiB of noise with a hole of 4 MiB in its middle, served as "root".
type nbdDisk struct {
	data []byte
	file string
	addr string
}

func (d nbdDisk) uri() string { return "nbd://" + d.addr + "/root" }

// serveNBD serves it, with TLS only when a configuration is given.
func serveNBD(t *testing.T, secure *tls.Config) nbdDisk {
	t.Helper()
	const mib = 1 << 20
	d := nbdDisk{data: make([]byte, 16*mib), file: filepath.Join(t.TempDir(), "disk")}
	rand.NewChaCha8([32]byte{1}).Read(d.data)
	clear(d.data[6*mib : 10*mib])
	f, err := os.Create(d.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 10 * mib} {
		if _, err := f.WriteAt(d.data[at:at+6*mib], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	backend, err := nbd.NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.addr = l.Addr().String()
	root := nbd.Export{Name: "root", Description: "noise with a hole", Backend: backend}
	s := &nbd.Server{
		TLS: secure, RequireTLS: secure != nil,
		Lookup: func(_ context.Context, name string) (*nbd.Export, error) {
			if name != "root" {
				return nil, fmt.Errorf("%w: no label %q", nbd.ErrUnknown, name)
			}
			e := root
			return &e, nil
		},
		List: func(context.Context) ([]nbd.Export, error) { return []nbd.Export{root}, nil },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		f.Close()
	})
	return d
}

// need skips the test, or under CI=true fails it, when a foreign program is not installed.
func need(t *testing.T, program, debian string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		missing(t, program, debian)
	}
}

func missing(t *testing.T, program, debian string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed (Debian: %s)", program, debian)
	}
	t.Skipf("%s is not installed (Debian: %s)", program, debian)
}

// command runs a program for at most a minute and returns what it printed.
func command(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	return string(out), err
}

func mustRun(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := command(t, argv...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return out
}

func TestNBDInfo(t *testing.T) {
	need(t, "nbdinfo", "libnbd-bin")
	d := serveNBD(t, nil)
	var info struct {
		Protocol   string
		Structured bool
		Exports    []struct {
			Name        string `json:"export-name"`
			Description string
			Size        int64 `json:"export-size"`
			Contexts    []string
			ReadOnly    bool  `json:"is_read_only"`
			MultiConn   bool  `json:"can_multi_conn"`
			Cache       bool  `json:"can_cache"`
			DF          bool  `json:"can_df"`
			Flush       bool  `json:"can_flush"`
			Min         int64 `json:"block_size_minimum"`
			Preferred   int64 `json:"block_size_preferred"`
			Max         int64 `json:"block_size_maximum"`
		}
	}
	for _, argv := range [][]string{{"nbdinfo", "--json", d.uri()}, {"nbdinfo", "--json", "--list", "nbd://" + d.addr}} {
		out := mustRun(t, argv...)
		if err := json.Unmarshal([]byte(out), &info); err != nil || len(info.Exports) != 1 {
			t.Fatalf("%v\n%s", err, out)
		}
		e := info.Exports[0]
		if info.Protocol != "newstyle-fixed" || !info.Structured ||
			e.Name != "root" || e.Description != "noise with a hole" || e.Size != int64(len(d.data)) ||
			strings.Join(e.Contexts, " ") != "base:allocation" ||
			!e.ReadOnly || !e.MultiConn || !e.Cache || !e.DF || e.Flush ||
			e.Min != 1 || e.Preferred != 4096 || e.Max != 32<<20 {
			t.Errorf("%s", out)
		}
	}
	var extents []struct{ Offset, Length, Type int64 }
	out := mustRun(t, "nbdinfo", "--json", "--map", d.uri())
	if err := json.Unmarshal([]byte(out), &extents); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []int64
	for _, e := range extents {
		got = append(got, e.Offset, e.Length, e.Type)
	}
	const want = "[0 6291456 0 6291456 4194304 3 10485760 6291456 0]"
	if fmt.Sprint(got) != want && fmt.Sprint(got) != "[0 16777216 0]" { // a file system without holes
		t.Errorf("extents %v, want %s", got, want)
	}
	if out, err := command(t, "nbdinfo", "nbd://"+d.addr+"/rot"); err == nil || !strings.Contains(out, "No such file or directory for export: rot") {
		t.Errorf("unknown export: %v\n%s", err, out)
	}
}

func TestNBDCopy(t *testing.T) {
	need(t, "nbdcopy", "libnbd-bin")
	d := serveNBD(t, nil)
	for _, argv := range [][]string{{"--connections=1", "--requests=1"}, {"--connections=4", "--requests=64"},
		{"--no-extents", "--request-size=33554432"}, {"--synchronous"}} {
		out := filepath.Join(t.TempDir(), "copy")
		mustRun(t, append(append([]string{"nbdcopy"}, argv...), d.uri(), out)...)
		equal(t, strings.Join(argv, " "), out, d.data)
	}
}

func equal(t *testing.T, what, file string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the copy differs", what)
	}
}

func TestNBDQemu(t *testing.T) {
	need(t, "qemu-img", "qemu-utils")
	need(t, "qemu-io", "qemu-utils")
	d := serveNBD(t, nil)
	out := filepath.Join(t.TempDir(), "copy")
	mustRun(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri(), out)
	equal(t, "qemu-img convert", out, d.data)
	mustRun(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", d.uri(), d.file)
	var info struct {
		Size int64 `json:"virtual-size"`
	}
	if out := mustRun(t, "qemu-img", "info", "--output=json", d.uri()); json.Unmarshal([]byte(out), &info) != nil || info.Size != int64(len(d.data)) {
		t.Error(out)
	}
	mustRun(t, "qemu-io", "-r", "-f", "raw", "-c", "read -P 0 6M 4M", "-c", "aio_read 0 1M", "-c", "aio_read 1M 1M",
		"-c", "aio_flush", "-c", "read 16383K 1K", d.uri())
	if out, err := command(t, "qemu-io", "-f", "raw", "-c", "write 0 4k", d.uri()); err == nil && !strings.Contains(out, "read-only") {
		t.Errorf("a write went through:\n%s", out)
	}
}

// certificate makes one for this host, as it and a guest know it, that is its own authority.
func certificate(t *testing.T) (server *tls.Config, authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{{127, 0, 0, 1}, net.ParseIP(vm.GuestHost)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(cryptorand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestNBDTLS: libnbd trusts a certificate of its directory, and gets nothing without TLS.
func TestNBDTLS(t *testing.T) {
	need(t, "nbdcopy", "libnbd-bin")
	secure, authority := certificate(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca-cert.pem"), []byte(authority), 0o644); err != nil {
		t.Fatal(err)
	}
	d := serveNBD(t, secure)
	out := filepath.Join(dir, "copy")
	mustRun(t, "nbdcopy", "nbds://"+d.addr+"/root?tls-certificates="+dir, out)
	equal(t, "nbdcopy by TLS", out, d.data)
	if out, err := command(t, "nbdinfo", d.uri()); err == nil || !strings.Contains(out, "TLS") {
		t.Errorf("without TLS: %v\n%s", err, out)
	}
}

// nbdPlain attaches the disk to the guest's kernel by nbd-client.
func nbdPlain(t *testing.T, g *guest) {
	d := serveNBD(t, nil)
	d.attach(t, g, "")
	r, err := g.fio("/dev/nbd0", 2, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("4 KiB random reads, 16 at once: %.0f a second", r.Jobs[0].Read.IOPS)
	g.run("nbd-client -d /dev/nbd0")
}

// nbdSecure does it by TLS, which nbd-client speaks in a process of its own that the kernel's
// driver talks to.
func nbdSecure(t *testing.T, g *guest) {
	secure, authority := certificate(t)
	d := serveNBD(t, secure)
	g.run("cat > /tmp/ca.pem <<.\n" + authority + ".")
	d.attach(t, g, "-x -A /tmp/ca.pem -H "+vm.GuestHost)
	g.run("nbd-client -d /dev/nbd0")
	_, port, _ := net.SplitHostPort(d.addr)
	if out, err := g.sh("nbd-client -N root " + vm.GuestHost + " " + port + " /dev/nbd0"); err == nil {
		t.Errorf("attached without TLS: %s", out)
	}
}

// attach attaches it as /dev/nbd0, reads all of it, and writes to it in vain.
func (d nbdDisk) attach(t *testing.T, g *guest, options string) {
	t.Helper()
	_, port, _ := net.SplitHostPort(d.addr)
	g.run("nbd-client -N root " + options + " " + vm.GuestHost + " " + port + " /dev/nbd0")
	want := fmt.Sprintf("%x  -\n1\n32768", sha256.Sum256(d.data))
	if out := g.run("sha256sum < /dev/nbd0; blockdev --getro /dev/nbd0; blockdev --getsz /dev/nbd0"); out != want {
		t.Errorf("digest, read-only, size:\n%s\nwant\n%s", out, want)
	}
	if out, err := g.sh("dd if=/dev/zero of=/dev/nbd0 bs=512 count=1"); err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("a write: %v\n%s", err, out)
	}
}

func TestNBDClientList(t *testing.T) {
	need(t, "nbd-client", "nbd-client")
	d := serveNBD(t, nil)
	host, port, _ := net.SplitHostPort(d.addr)
	if out := mustRun(t, "nbd-client", "-l", host, "-p", port); !regexp.MustCompile(`(?m)^root\b`).MatchString(out) {
		t.Error(out)
	}
}

// TestNBDLibrary drives libnbd by its Python binding: errors, and what no command line reaches.
func TestNBDLibrary(t *testing.T) {
	python := ""
	for _, p := range []string{"python3", "/usr/bin/python3"} { // the binding belongs to the distribution's
		if exec.Command(p, "-c", "import nbd").Run() == nil {
			python = p
			break
		}
	}
	if python == "" {
		missing(t, "libnbd for Python", "python3-libnbd")
	}
	d := serveNBD(t, nil)
	mustRun(t, python, "testdata/libnbd.py", d.uri(), d.file)
}

// TestNBDHandshakeForeign attaches exports of other servers and reads the first bytes as the kernel
// would.
func TestNBDHandshakeForeign(t *testing.T) {
	file := serveNBD(t, nil)
	for _, tt := range []struct {
		name, program, debian, export string
		argv                          []string
		flags                         uint16
	}{
		{"nbdkit", "nbdkit", "nbdkit", "", []string{"--foreground", "--readonly", "--unix=SOCKET", "file", file.file}, nbd.FlagReadOnly | nbd.FlagCanMultiConn},
		{"nbdkit, newstyle that is not fixed", "nbdkit", "nbdkit", "",
			[]string{"--foreground", "--readonly", "--mask-handshake=0", "--unix=SOCKET", "file", file.file}, nbd.FlagReadOnly},
		{"nbdkit, without NO_ZEROES", "nbdkit", "nbdkit", "x",
			[]string{"--foreground", "--readonly", "--mask-handshake=1", "--unix=SOCKET", "file", file.file}, nbd.FlagReadOnly},
		{"qemu-nbd", "qemu-nbd", "qemu-utils", "root",
			[]string{"--read-only", "--persistent", "--shared=0", "--format=raw", "--export-name=root", "--socket=SOCKET", file.file}, nbd.FlagReadOnly},
	} {
		t.Run(tt.name, func(t *testing.T) {
			need(t, tt.program, tt.debian)
			sock := filepath.Join(t.TempDir(), "s")
			for i := range tt.argv {
				tt.argv[i] = strings.ReplaceAll(tt.argv[i], "SOCKET", sock)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, tt.program, tt.argv...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			conn := dialUnix(ctx, t, sock)
			info, err := nbd.Handshake(ctx, conn, tt.export)
			if err != nil {
				t.Fatal(err)
			}
			want := nbd.FlagHasFlags | tt.flags
			if info.Size != uint64(len(file.data)) || info.Flags&want != want || info.PreferredBlock < 512 {
				t.Errorf("%+v", info)
			}
			if got := firstBytes(t, conn); !bytes.Equal(got, file.data[:512]) {
				t.Errorf("first bytes %x", got)
			}
			if tt.program == "qemu-nbd" {
				_, err := nbd.Handshake(ctx, dialUnix(ctx, t, sock), "absent")
				if err == nil || !strings.Contains(err.Error(), "unknown export; the server says: \"export 'absent' not present\"") {
					t.Errorf("absent export: %v", err)
				}
			}
		})
	}
}

// dialUnix connects as soon as the server listens.
func dialUnix(ctx context.Context, t *testing.T, sock string) net.Conn {
	t.Helper()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", sock)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// firstBytes reads the first 512 bytes by a READ of simple replies.
func firstBytes(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	request := []byte("\x25\x60\x95\x13\x00\x00\x00\x00cookie-1\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00")
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 16+512)
	for n := 0; n < len(reply); {
		m, err := conn.Read(reply[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if !bytes.HasPrefix(reply, []byte("\x67\x44\x66\x98\x00\x00\x00\x00cookie-1")) {
		t.Fatalf("reply %x", reply[:16])
	}
	return reply[16:]
}

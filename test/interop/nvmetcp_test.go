package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/internal/proto/accept"
	"netroot/internal/proto/nvmetcp"
	"netroot/internal/vm"
)

// nvmeDisk is 8 MiB of noise, of which the last block is not full.
type nvmeDisk struct {
	*bytes.Reader
	sub    *nvmetcp.Subsystem
	sha256 string // of the disk, to the end of its last block
}

func newNVMeDisk() nvmeDisk {
	const size = 8<<20 + 700
	b := make([]byte, size+512-size%512)
	rand.NewChaCha8([32]byte{2}).Read(b[:size])
	d := nvmeDisk{Reader: bytes.NewReader(b[:size]), sha256: fmt.Sprintf("%x", sha256.Sum256(b))}
	d.sub = nvmetcp.NewSubsystem(sha256.Sum256(b[:size]), "netroot test@0123", d)
	return d
}

// nvmeServer is one of those that serve it.
type nvmeServer struct {
	t    *testing.T
	disk nvmeDisk
	port int
	*nvmetcp.Server
	stop func() // as if it were killed: connections closed without a word
}

// serveNVMe serves the disk on a port of the loopback, which 0 chooses.
func serveNVMe(t *testing.T, d nvmeDisk, port int) *nvmeServer {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	s := &nvmeServer{t: t, disk: d, port: l.Addr().(*net.TCPAddr).Port}
	s.Server = &nvmetcp.Server{
		Options:   accept.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))},
		Advertise: netip.AddrPortFrom(netip.MustParseAddr(vm.GuestHost), uint16(s.port)),
		List:      func(context.Context) ([]nvmetcp.Subsystem, error) { return []nvmetcp.Subsystem{*d.sub}, nil },
		Lookup: func(_ context.Context, nqn string) (*nvmetcp.Subsystem, error) {
			if nqn != d.sub.NQN {
				return nil, fmt.Errorf("%w: no label %q", nvmetcp.ErrUnknown, nqn)
			}
			return d.sub, nil
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ctx, l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}()
	s.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(s.stop)
	return s
}

// bytesRead is what the guest has read from it.
func (s *nvmeServer) bytesRead() (n uint64) {
	for _, st := range s.Active() {
		n += st.ReadBytes
	}
	return n
}

// connect makes the guest connect, and returns when the disk is there.
func (s *nvmeServer) connect(g *guest, port int, options string) {
	g.t.Helper()
	g.run(fmt.Sprintf("nvme connect -t tcp -a %s -s %d -n %s --ctrl-loss-tmo=-1 --reconnect-delay=1 %s", vm.GuestHost, port, s.disk.sub.NQN, options))
	g.run("until test -b /dev/nvme0n1; do usleep 20000; done")
}

func (s *nvmeServer) disconnect(g *guest) {
	g.t.Helper()
	g.run("nvme disconnect -n " + s.disk.sub.NQN + " && while ls /dev/nvme?n1; do usleep 20000; done")
}

// becomes waits for a fact.
func becomes(t *testing.T, what string, fact func() bool) {
	t.Helper()
	end := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-end:
			t.Fatalf("waited a minute for: %s", what)
		case <-tick.C:
		}
	}
}

func nvmeDiscover(t *testing.T, g *guest) {
	s := serveNVMe(t, newNVMeDisk(), 0)
	var log struct {
		Records []struct{ TrType, AdrFam, TrAddr, TrSvcID, SubNQN, SubType string }
	}
	out := g.run(fmt.Sprintf("nvme discover -t tcp -a %s -s %d -o json", vm.GuestHost, s.port))
	if err := json.Unmarshal([]byte(out), &log); err != nil || len(log.Records) != 1 {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := log.Records[0]; r.TrType != "tcp" || r.AdrFam != "ipv4" || r.TrAddr != vm.GuestHost || r.TrSvcID != fmt.Sprint(s.port) ||
		r.SubNQN != s.disk.sub.NQN || r.SubType != "nvme subsystem" {
		t.Errorf("%s", out)
	}
	// The disk is not number 0: while it is connected to, discovery is.
	g.run(fmt.Sprintf("nvme connect-all -t tcp -a %s -s %d && until ls /dev/nvme?n1; do usleep 20000; done", vm.GuestHost, s.port))
	s.disconnect(g)
	if out, err := g.sh(fmt.Sprintf("nvme connect -t tcp -a %s -s %d -n nqn.2026-01.test:gone", vm.GuestHost, s.port)); err == nil {
		t.Errorf("connected to what is not there: %s", out)
	}
}

// nvmeFabrics connects as a node does that has no nvme-cli.
func nvmeFabrics(t *testing.T, g *guest) {
	s := serveNVMe(t, newNVMeDisk(), 0)
	const id = "11111111-2222-4333-8444-555555555555"
	out := g.run(fmt.Sprintf("exec 3<>/dev/nvme-fabrics && printf transport=tcp,traddr=%s,trsvcid=%d,nqn=%s,hostnqn=nqn.2014-08.org.nvmexpress:uuid:%s,hostid=%s,"+
		"nr_io_queues=4,keep_alive_tmo=5,reconnect_delay=1,ctrl_loss_tmo=-1 >&3 && cat <&3 && until test -b /dev/nvme0n1; do usleep 20000; done",
		vm.GuestHost, s.port, s.disk.sub.NQN, id, id))
	if st := s.Active(); len(st) != 1 || out != fmt.Sprintf("instance=0,cntlid=%d", st[0].Number) || !strings.HasSuffix(st[0].Client, id) {
		t.Errorf("the kernel says %q, the server %+v", out, st)
	}
	g.run("echo 1 > /sys/class/nvme/nvme0/delete_controller && while ls /dev/nvme?n1; do usleep 20000; done")
}

// nvmeRead reads the whole disk under every agreement that a host can ask for.
func nvmeRead(t *testing.T, g *guest) {
	s := serveNVMe(t, newNVMeDisk(), 0)
	for _, options := range []string{"", "--hdr-digest", "--data-digest --disable-sqflow", "--hdr-digest --data-digest --nr-write-queues=1 --nr-poll-queues=1", "--disable-sqflow"} {
		s.connect(g, s.port, options)
		if out := g.run("sha256sum < /dev/nvme0n1; blockdev --getro /dev/nvme0n1; blockdev --getsz /dev/nvme0n1"); out != s.disk.sha256+"  -\n1\n16386" {
			t.Errorf("with %q: digest, read-only, size:\n%s\nwant %s", options, out, s.disk.sha256)
		}
		if st := s.Active(); len(st) != 1 || strings.Contains(options, "poll") != (st[0].Connections > 1) {
			t.Errorf("with %q: %+v", options, st)
		}
		// Large reads past the page cache, which Linux splits as MDTS says.
		if out := g.run("dd if=/dev/nvme0n1 bs=3M iflag=direct 2>/dev/null | sha256sum"); out != s.disk.sha256+"  -" {
			t.Errorf("with %q: digest %s of large reads", options, out)
		}
		s.disconnect(g)
	}
}

func nvmeDescribe(t *testing.T, g *guest) {
	s := serveNVMe(t, newNVMeDisk(), 0)
	s.connect(g, s.port, "")
	sub := s.disk.sub
	for _, tt := range []struct {
		script string
		want   []string // in what it prints, with spaces made one
	}{
		{"nvme id-ctrl /dev/nvme0", []string{"sn : " + sub.Serial, "mn : netroot test@0123", "cmic : 0xb", "mdts : 8", "ver : 0x20000", "cntrltype : 1", "nn : 1", "anacap : 65", "ioccsz : 68", "subnqn : " + sub.NQN}},
		{"nvme id-ns /dev/nvme0n1", []string{"nsze : 0x4002", "nmic : 0x1", "anagrpid: 1", "nsattr : 1", fmt.Sprintf("nguid : %x", sub.NGUID), "lbaf 0 : ms:0 lbads:9 rp:0 (in use)"}},
		{"nvme ns-descs /dev/nvme0n1", []string{fmt.Sprintf("nguid : %x", sub.NGUID), "uuid : " + strings.TrimPrefix(sub.NQN, "nqn.2014-08.org.nvmexpress:uuid:"), "csi : 0"}},
		{"nvme list-ns /dev/nvme0", []string{"[ 0]:0x1"}},
		{"nvme cmdset-ind-id-ns /dev/nvme0 -n 1", []string{"nsattr : 1", "nstat : 0x1"}},
		{"nvme list-subsys", []string{"NQN=" + sub.NQN, "nvme0 tcp traddr=10.0.2.2", "live"}},
		{"nvme smart-log /dev/nvme0", []string{"critical_warning : 0", "available_spare : 100%"}},
		{"nvme ana-log /dev/nvme0", []string{"ngrps : 1", "state : optimized"}},
		{"nvme fw-log /dev/nvme0", []string{"frs1 : 0x20746f6f7274656e"}},
		{"nvme error-log /dev/nvme0", []string{"error_count : 0"}},
		{"nvme supported-log-pages /dev/nvme0", []string{"LID 0xc (Asymmetric Namespace Access), supports 0x1"}},
		{"nvme get-property /dev/nvme0 -o 0x1c", []string{"value: 1"}},
		{"nvme get-feature /dev/nvme0 -f 7", []string{"value:0x00070007"}},
		{"nvme get-feature /dev/nvme0 -f 0x0f", []string{"value:0x00001388"}},
		{"cat /sys/block/nvme0c0n1/ana_state /sys/block/nvme0n1/wwid /sys/block/nvme0n1/queue/max_hw_sectors_kb", []string{"optimized", "uuid.", "1024"}},
		{"nvme reset /dev/nvme0 && until grep -q live /sys/class/nvme/nvme0/state; do usleep 20000; done; nvme flush /dev/nvme0n1 -n 1", []string{"success"}},
	} {
		out := strings.Join(strings.Fields(g.run(tt.script)), " ")
		for _, want := range tt.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", tt.script, want, out)
			}
		}
	}
	s.disconnect(g)
}

func nvmeRefuse(t *testing.T, g *guest) {
	s := serveNVMe(t, newNVMeDisk(), 0)
	s.connect(g, s.port, "")
	for script, want := range map[string]string{
		"dd if=/dev/zero of=/dev/nvme0n1 bs=512 count=1":                        "Operation not permitted",
		"nvme write /dev/nvme0n1 -s 0 -c 0 -z 512 -d /bin/busybox":              "Write Protected",
		"nvme write-zeroes /dev/nvme0n1 -s 0 -c 0":                              "Write Protected",
		"nvme dsm /dev/nvme0n1 -n 1 -d -s 0 -b 8":                               "Write Protected",
		"nvme compare /dev/nvme0n1 -s 0 -c 0 -z 512 -d /bin/busybox":            "Invalid Command Opcode",
		"nvme read /dev/nvme0n1 -s 16386 -c 0 -z 512":                           "LBA Out of Range",
		"nvme get-log /dev/nvme0 -i 0xc0 -l 512":                                "Log Page",
		"nvme admin-passthru /dev/nvme0 -o 0x80 -n 1":                           "Invalid Command Opcode",
		"nvme id-ctrl /dev/nvme0 >/dev/null; nvme primary-ctrl-caps /dev/nvme0": "Invalid Field",
	} {
		if out, err := g.sh(script); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v, want %q in\n%s", script, err, want, out)
		}
	}
	s.disconnect(g)
}

// fioResult is what is of interest in fio's JSON.
type fioResult struct {
	Jobs []struct {
		Error int
		Read  struct {
			IOPS  float64                     `json:"iops"`
			Total int                         `json:"total_ios"`
			Clat  struct{ Max, Mean float64 } `json:"clat_ns"`
		}
	}
}

func (r fioResult) stall() time.Duration { return time.Duration(r.Jobs[0].Read.Clat.Max) }

// fio reads a disk at random for so many seconds.
func (g *guest) fio(disk string, seconds, depth int) (r fioResult, err error) {
	out, err := g.sh(fmt.Sprintf("fio --name=r --filename=%s --readonly --rw=randread --bs=4k --iodepth=%d --ioengine=libaio --direct=1 --runtime=%d --time_based --output-format=json", disk, depth, seconds))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Jobs) != 1 || r.Jobs[0].Error != 0 || r.Jobs[0].Read.Total == 0 {
		return r, fmt.Errorf("fio: %v\n%s", err, out)
	}
	return r, nil
}

func nvmeFio(t *testing.T, g *guest) {
	s := serveNVMe(t, newNVMeDisk(), 0)
	s.connect(g, s.port, "")
	r, err := g.fio("/dev/nvme0n1", 2, 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("4 KiB random reads, 16 at once: %.0f a second", r.Jobs[0].Read.IOPS)
	s.disconnect(g)
}

// nvmeNoComplaints: up to here the kernel has nothing to say that it does not say to every target.
func nvmeNoComplaints(t *testing.T, g *guest) {
	const usual = "new ctrl|Removing ctrl|creating [0-9]+ I/O queues|mapped [0-9/]+ |resetting controller|will reconnect forever|" +
		"Connect Invalid Data Parameter, subsysnqn .nqn.2026-01.test:gone|failed to connect queue: 0 ret=386"
	if out := g.run("dmesg | grep nvme | grep -vE '" + usual + "' || true"); out != "" {
		t.Errorf("the kernel complains:\n%s", out)
	}
}

// nvmeRestart: the server is killed in the middle of a read and comes back 20 s later.
func nvmeRestart(t *testing.T, g *guest) {
	const away = 20 * time.Second
	s := serveNVMe(t, newNVMeDisk(), 0)
	s.connect(g, s.port, "")
	before := s.bytesRead()
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := g.sh("dd if=/dev/nvme0n1 bs=4k iflag=direct 2>/dev/null | sha256sum")
		done <- result{out, err}
	}()
	becomes(t, "a third of the disk was read", func() bool { return s.bytesRead()-before > 2<<20 })
	killed := time.Now()
	s.stop()
	select {
	case r := <-done:
		t.Fatalf("the read ended without the server: %v\n%s", r.err, r.out)
	case <-time.After(away):
	}
	s = serveNVMe(t, s.disk, s.port)
	r := <-done
	if r.err != nil || r.out != s.disk.sha256+"  -" {
		t.Errorf("%v, digest %s, want %s", r.err, r.out, s.disk.sha256)
	}
	t.Logf("server away for %v: the read went on and was done %v after the kill", away, time.Since(killed).Round(100*time.Millisecond))
	s.disconnect(g)
}

// paths has the guest connect to two servers, which it then takes for two paths to one disk.
func paths(t *testing.T, g *guest, one, two *nvmeServer, portOfOne int, options string) {
	t.Helper()
	one.connect(g, portOfOne, options)
	two.connect(g, two.port, options)
	const both = `until test "$(cat /sys/block/nvme0c*n1/ana_state 2>/dev/null | tr '\n' ' ')" = "optimized optimized "; do usleep 20000; done`
	g.run("timeout 20 sh -c '" + strings.ReplaceAll(both, "'", `'"'"'`) + "'; test -b /dev/nvme0n1 && ! test -b /dev/nvme1n1 && ! test -b /dev/nvme0n2")
}

// lose reads while the server in use is lost by the given means, and returns fio's result.
func lose(t *testing.T, g *guest, seconds int, one *nvmeServer, how func()) fioResult {
	t.Helper()
	type result struct {
		fioResult
		err error
	}
	done := make(chan result, 1)
	before := one.bytesRead()
	go func() {
		r, err := g.fio("/dev/nvme0n1", seconds, 1)
		done <- result{r, err}
	}()
	becomes(t, "reads by the first server", func() bool { return one.bytesRead() > before+1<<20 })
	how()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	if out := g.run("sha256sum < /dev/nvme0n1"); out != one.disk.sha256+"  -" {
		t.Errorf("digest %s by the second server", out)
	}
	return r.fioResult
}

// nvmeSecondServer: one of two servers is killed for good.
func nvmeSecondServer(t *testing.T, g *guest) {
	d := newNVMeDisk()
	one, two := serveNVMe(t, d, 0), serveNVMe(t, d, 0)
	paths(t, g, one, two, one.port, "")
	r := lose(t, g, 6, one, one.stop)
	t.Logf("one of two servers killed: longest stall of a reader %v (mean %v)", r.stall(), time.Duration(r.Jobs[0].Read.Clat.Mean))
	if r.stall() > 5*time.Second {
		t.Errorf("a reader stalled for %v", r.stall())
	}
	two.disconnect(g)
}

// nvmeVanish: one of two servers falls silent, as if its plug were pulled. Only its keep-alive can
// tell.
func nvmeVanish(t *testing.T, g *guest) {
	d := newNVMeDisk()
	one, two := serveNVMe(t, d, 0), serveNVMe(t, d, 0)
	port, freeze := relay(t, one.port)
	paths(t, g, one, two, port, "--keep-alive-tmo=2")
	r := lose(t, g, 15, one, freeze)
	t.Logf("one of two servers vanished, keep-alive of 2 s: longest stall of a reader %v (mean %v)", r.stall(), time.Duration(r.Jobs[0].Read.Clat.Mean))
	if r.stall() > 14*time.Second {
		t.Errorf("a reader stalled for %v", r.stall())
	}
}

// relay forwards connections to a port until freeze; then nothing moves, and nothing is closed.
func relay(t *testing.T, to int) (port int, freeze func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	frozen, ended := make(chan struct{}), make(chan struct{})
	var conns sync.WaitGroup
	forward := func(dst, src net.Conn) {
		defer dst.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := src.Read(buf)
			select {
			case <-frozen:
				<-ended
				return
			default:
			}
			if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	conns.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
			if err != nil {
				in.Close()
				continue
			}
			conns.Go(func() { forward(out, in) })
			conns.Go(func() { forward(in, out) })
		}
	})
	t.Cleanup(func() {
		close(ended)
		l.Close()
		conns.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port, sync.OnceFunc(func() { close(frozen) })
}

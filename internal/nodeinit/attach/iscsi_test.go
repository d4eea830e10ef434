package attach

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"netroot/internal/proto/iscsi"
)

const exampleHandle = 0xffffffffc0a81234

// TestISCSIMessages holds the requests against bytes that a C compiler made of
// struct iscsi_uevent on a machine with the low byte first.
func TestISCSIMessages(t *testing.T) {
	if native.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the bytes are those of a machine with the low byte first")
	}
	const head, none = " 3412a8c0ffffffff ", " 0000000000000000 0000000000000000"
	k := &iscsiKernel{Handle: exampleHandle, SID: 7, CID: 2}
	for name, c := range map[string]struct {
		got  uevent
		want string // netlink header, then struct iscsi_uevent, then data
	}{
		"create session": {createSessionEvent(exampleHandle, 1), "48000000 0b000100 05000000 00000000" +
			"0b00000000000000" + head + "0100000040002000 0000000000000000 0000000000000000" + none},
		"bind": {k.bindEvent(9), "48000000 0f000100 05000000 00000000" +
			"0f00000000000000" + head + "0700000002000000 0900000000000000 0100000000000000" + none},
		"set": {k.setEvent(iscsiParam{19, "-1"}), "4b000000 10000100 05000000 00000000" +
			"1000000000000000" + head + "0700000002000000 1300000003000000 0000000000000000" + none + "2d3100"},
		"stop": {k.stopEvent(iscsiStopRecover), "48000000 12000100 05000000 00000000" +
			"1200000000000000" + head + "0700000002000000 0000000000000000 0300000000000000" + none},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		m := c.got.message()
		m.Seq = 5
		if got := m.Serialize(); !bytes.Equal(got, want) {
			t.Errorf("%s:\n%x, want\n%x", name, got, want)
		}
	}
}

// connError is what the kernel says when it gave a connection up.
func connError(sid uint32) uevent {
	e := newUevent(iscsiConnError, exampleHandle)
	native.PutUint32(e[ueventResponse:], sid)
	native.PutUint32(e[ueventResponse+8:], 1020) // ISCSI_ERR_TCP_CONN_CLOSE
	return e
}

// parseMessages does what nl.NetlinkSocket.Receive does with the bytes it has read.
func parseMessages(b []byte) ([]syscall.NetlinkMessage, error) {
	padded := make([]byte, (len(b)+3)&^3)
	copy(padded, b)
	return syscall.ParseNetlinkMessage(padded)
}

// messages is what a read of the socket brings, taken apart.
func messages(b []byte) []uevent {
	m, err := parseMessages(b)
	if err != nil {
		return nil
	}
	return uevents(m)
}

func FuzzUevents(f *testing.F) {
	stats := append(newUevent(iscsiGetStats, 1), "12345..."...)
	two := append(connError(7).message().Serialize(), stats.message().Serialize()...)
	f.Add(two)
	f.Add(two[:len(two)-9])
	f.Add([]byte{3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range messages(b) {
			if len(e) < ueventSize || len(e) > len(b)+3 {
				t.Errorf("an event of %d bytes out of %d", len(e), len(b))
			}
			e.kind()
			e.response(3)
		}
	})
}

func TestUevents(t *testing.T) {
	stats := append(newUevent(iscsiGetStats, 1), "12345..."...)
	got := messages(append(connError(7).message().Serialize(), stats.message().Serialize()...))
	if len(got) != 2 || got[0].kind() != iscsiConnError || got[0].response(0) != 7 || string(got[1][ueventSize:]) != "12345..." {
		t.Errorf("%x", got)
	}
	if got := messages(newUevent(iscsiConnError, 1)[:ueventSize-1].message().Serialize()); len(got) != 0 {
		t.Errorf("%x of a message that is too short", got)
	}
}

// TestISCSIParameters: each number is that of enum iscsi_param. The target (15) must not have a name,
// by which iscsid of the root would find the session and take it over.
func TestISCSIParameters(t *testing.T) {
	d := newISCSI([]string{"[2001:db8::1]:3260"}, "iqn.2026-11.invalid.netroot:debian12:0123456789ab", "01020304-0506-4708-890a-0b0c0d0e0f10")
	d.Server = d.Addresses[0]
	got := d.parameters(iscsi.Session{PortalGroup: 1, CmdSN: 1, ExpStatSN: 4000000000, HeaderDigest: true, MaxReceive: 262144, MaxSend: 8192,
		MaxBurst: 1048576, FirstBurst: 65536, MaxR2T: 1, InitialR2T: true, PDUInOrder: true, SeqInOrder: true})
	want := []iscsiParam{{0, "262144"}, {1, "8192"}, {2, "1"}, {3, "0"}, {4, "1"}, {5, "1"}, {6, "0"}, {7, "65536"}, {8, "1048576"},
		{9, "1"}, {10, "1"}, {11, "0"}, {14, "4000000000"}, {16, "1"},
		{17, "2001:db8::1"}, {18, "3260"}, {19, "-1"}, {30, "10"}, {31, "5"},
		{34, "iqn.2026-11.invalid.netroot:node:01020304-0506-4708-890a-0b0c0d0e0f10"}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(iscsiParam{})); d != "" {
		t.Error(d)
	}
	if d.ISID != [6]byte{0x80, 1, 2, 3} {
		t.Errorf("ISID %x", d.ISID)
	}
}

// TestISCSIDisk: the disk is that of the session, whatever else is there.
func TestISCSIDisk(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{
		"session1/device/target2:0:0/2:0:0:0/block/sda",
		"session2/device/target3:0:0/3:0:0:1/block/sdb", // LUN 1
		"session2/device/target3:0:0/3:0:0:0/block/sdc",
		"session3/device/target4:0:0/power",
		"session12/device/target5:0:0/5:0:0:0/block/sdd",
	} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for sid, want := range map[uint32]string{1: "/dev/sda", 2: "/dev/sdc", 3: "", 4: "", 12: "/dev/sdd"} {
		if got := iscsiDisk(dir, sid, 0); got != want {
			t.Errorf("session %d: %q, want %q", sid, got, want)
		}
	}
	if got := iscsiDisk(dir, 2, 1); got != "/dev/sdb" {
		t.Errorf("LUN 1: %q", got)
	}
}

// fakeSocket is a netlinkSocket whose other end is the test.
type fakeSocket struct{ *os.File }

func (s fakeSocket) Send(r *nl.NetlinkRequest) error {
	_, err := s.Write(r.Serialize())
	return err
}

func (s fakeSocket) Receive() ([]syscall.NetlinkMessage, *unix.SockaddrNetlink, error) {
	buf := make([]byte, 16<<10)
	n, err := s.Read(buf)
	if err != nil {
		return nil, nil, err
	}
	m, err := parseMessages(buf[:n])
	return m, nil, err
}

func (s fakeSocket) GetFd() int { return int(s.Fd()) }

func (s fakeSocket) Close() { s.File.Close() }

// pair is an iscsiKernel, and the end of its socket that the kernel would have.
func pair(t *testing.T) (iscsiKernel, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, kernels := os.NewFile(uintptr(fds[0]), "daemon"), os.NewFile(uintptr(fds[1]), "kernel")
	t.Cleanup(func() { ours.Close(); kernels.Close() })
	return iscsiKernel{Handle: exampleHandle, SID: 7, CID: 2, socket: fakeSocket{ours}}, kernels
}

// TestISCSIRelease: a connection that failed before the keeper listened is an error of the attach.
func TestISCSIRelease(t *testing.T) {
	for _, c := range []struct {
		event uevent
		lost  bool
	}{{connError(8), false}, {newUevent(iscsiStartConn, exampleHandle), false}, {connError(7), true}} {
		k, kernel := pair(t)
		d := &ISCSI{Kernel: k, Server: "10.1.2.1:3260"}
		if _, err := kernel.Write(c.event.message().Serialize()); err != nil {
			t.Fatal(err)
		}
		if err := d.Release(); (err != nil) != c.lost {
			t.Errorf("event %d of session %d: %v", c.event.kind(), c.event.response(0), err)
		}
	}
}

// TestISCSIWatch: the keeper wakes when the peer ends the connection or when the
// kernel gives it up, and for nothing else.
func TestISCSIWatch(t *testing.T) {
	for _, how := range []string{"peer", "kernel"} {
		t.Run(how, func(t *testing.T) {
			k, kernel := pair(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			peer, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			file, err := forKernel(conn)
			if err != nil {
				t.Fatal(err)
			}
			d := &ISCSI{Kernel: k, conn: file}
			woken := make(chan error, 1)
			go func() { woken <- d.Watch() }()
			peer.Write([]byte("data"))
			kernel.Write(connError(8).message().Serialize()) // of another session
			kernel.Write(newUevent(iscsiStartConn, exampleHandle).message().Serialize())
			select {
			case err := <-woken:
				t.Fatalf("woken by what is no end: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			if how == "peer" {
				peer.Close()
			} else {
				kernel.Write(connError(7).message().Serialize())
			}
			if err := <-woken; err != nil {
				t.Error(err)
			}
		})
	}
}

// answering plays the kernel: it answers every request, and tells what they were.
func answering(kernel *os.File, sent uint32, failing uint32) <-chan []uint32 {
	asked := make(chan []uint32, 1)
	go func() {
		var kinds []uint32
		buf := make([]byte, 4096)
		for {
			n, err := kernel.Read(buf)
			if err != nil || n == 0 {
				asked <- kinds
				return
			}
			for _, e := range messages(buf[:n]) {
				e = slices.Clone(e)
				kinds = append(kinds, e.kind())
				switch {
				case e.kind() == failing:
					native.PutUint32(e[ueventError:], ^uint32(unix.EINVAL)+1)
					native.PutUint32(e[ueventType:], iscsiIfError)
				case e.kind() == iscsiGetStats:
					e = native.AppendUint32(append(e, make([]byte, statsCommands)...), sent)
				}
				kernel.Write(e.message().Serialize())
			}
		}
	}()
	return asked
}

// TestISCSIAgain: after a loss the kernel is stopped, a login goes on where the
// numbers of its commands end, and the kernel is given the new connection.
func TestISCSIAgain(t *testing.T) {
	const name = "iqn.2026-11.invalid.netroot:small:0123456789ab"
	server := &iscsi.Server{Lookup: func(context.Context, string) (*iscsi.Target, error) {
		return &iscsi.Target{Name: name, Backend: bytes.NewReader(make([]byte, 4096))}, nil
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	defer func() { cancel(); <-served }()

	for _, c := range []struct {
		name    string
		failing uint32
		want    []uint32
	}{
		{"right", 0, append(slices.Concat([]uint32{iscsiStopConn, iscsiGetStats, iscsiBindConn}, slices.Repeat([]uint32{iscsiSetParam}, 20)), iscsiStartConn)},
		{"bind fails", iscsiBindConn, []uint32{iscsiStopConn, iscsiGetStats, iscsiBindConn}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, kernel := pair(t)
			asked := answering(kernel, 41, c.failing)
			d := newISCSI([]string{l.Addr().String()}, name, "01020304-")
			d.Kernel, d.Kernel.lost = k, true
			err := d.Reconnect(ctx)
			if c.failing != 0 != errors.Is(err, unix.EINVAL) {
				t.Errorf("%v", err)
			}
			k.socket.Close()
			if got := <-asked; !slices.Equal(got, c.want) {
				t.Errorf("asked %v, want %v", got, c.want)
			}
			if d.stopped == (c.failing == 0) || d.Kernel.lost {
				t.Errorf("stopped: %v, lost: %v", d.stopped, d.Kernel.lost)
			}
			if c.failing == 0 {
				firstCommand(t, d.conn, 42)
			}
			d.conn.Close()
		})
	}
}

// firstCommand sends TEST UNIT READY with a number, which the target answers
// only when it is the next (RFC 7143, 4.2.2.1).
func firstCommand(t *testing.T, conn *os.File, number byte) {
	t.Helper()
	command := make([]byte, 48)
	command[0], command[1], command[19], command[27] = 0x01, 0x80, 9, number
	if _, err := conn.Write(command); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 48)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != 0x21 || answer[31] != number+1 {
		t.Errorf("answer %x, %v; want a SCSI response that expects %d", answer, err, number+1)
	}
}

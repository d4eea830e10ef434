package gate

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// socket is one end of a TCP connection of this host.
type socket struct {
	inode uint64 // never 0
	uid   uint32 // of the process that made it
}

// errNoSocket is also what a process gets that closes its socket before it is looked at. The kernel
// keeps such a socket for a while without a file and with user 0, so its user proves nothing.
var errNoSocket = errors.New("no process of this host has its other end")

// otherEnd finds the socket that an accepted connection leads to. It prefers sock_diag(7), which
// finds one socket at once; kernels and containers without it have /proc/net/tcp.
func otherEnd(conn net.Conn) (socket, error) {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	remote, ok2 := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return socket{}, errNoSocket
	}
	here, there := local.AddrPort(), remote.AddrPort()
	here, there = netip.AddrPortFrom(here.Addr().Unmap(), here.Port()), netip.AddrPortFrom(there.Addr().Unmap(), there.Port())
	if !here.Addr().Is4() || !there.Addr().Is4() {
		return socket{}, errNoSocket
	}
	s, err := byDiag(there, here)
	if err != nil {
		s, err = byTable("/proc/self/net/tcp", there, here)
	}
	if err == nil && s.inode == 0 {
		err = errNoSocket
	}
	return s, err
}

// Sizes and values of linux/inet_diag.h and linux/sock_diag.h.
const (
	sockDiagByFamily = 20
	diagRequestLen   = 8 + 48 // struct inet_diag_req_v2
	diagMessageLen   = 4 + 48 + 20
	anyCookie        = ^uint32(0) // INET_DIAG_NOCOOKIE
)

// byDiag asks the kernel for the socket with these addresses.
func byDiag(own, peer netip.AddrPort) (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return socket{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, diagRequest(own, peer), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return socket{}, os.NewSyscallError("sendto", err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return socket{}, os.NewSyscallError("recvfrom", err)
	}
	return parseDiag(b[:n])
}

func diagRequest(own, peer netip.AddrPort) []byte {
	native, wire := binary.NativeEndian, binary.BigEndian
	b := native.AppendUint32(nil, unix.NLMSG_HDRLEN+diagRequestLen)
	b = native.AppendUint16(b, sockDiagByFamily)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...) // sequence number and port
	b = append(b, unix.AF_INET, unix.IPPROTO_TCP, 0, 0)
	b = native.AppendUint32(b, ^uint32(0)) // in any state
	b = wire.AppendUint16(b, own.Port())
	b = wire.AppendUint16(b, peer.Port())
	for _, a := range []netip.Addr{own.Addr(), peer.Addr()} {
		b = append(append(b, a.AsSlice()...), make([]byte, 12)...)
	}
	b = native.AppendUint32(b, 0) // any interface
	b = native.AppendUint32(b, anyCookie)
	return native.AppendUint32(b, anyCookie)
}

// parseDiag reads one answer: a struct inet_diag_msg, or an error.
func parseDiag(b []byte) (socket, error) {
	if len(b) < unix.NLMSG_HDRLEN+4 {
		return socket{}, fmt.Errorf("sock_diag: an answer of %d bytes", len(b))
	}
	kind, body := binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:]
	switch {
	case kind == unix.NLMSG_ERROR:
		return socket{}, fmt.Errorf("sock_diag: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(body))))
	case kind != sockDiagByFamily || len(body) < diagMessageLen:
		return socket{}, fmt.Errorf("sock_diag: an answer of type %d and %d bytes", kind, len(body))
	}
	tail := body[diagMessageLen-8:]
	return socket{uid: binary.NativeEndian.Uint32(tail), inode: uint64(binary.NativeEndian.Uint32(tail[4:]))}, nil
}

// byTable finds the socket in a table of the form of /proc/net/tcp (proc(5)).
func byTable(table string, own, peer netip.AddrPort) (socket, error) {
	f, err := os.Open(table)
	if err != nil {
		return socket{}, err
	}
	defer f.Close()
	want := [2]string{tableName(own), tableName(peer)}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		if len(w) < 10 || w[1] != want[0] || w[2] != want[1] {
			continue
		}
		uid, err1 := strconv.ParseUint(w[7], 10, 32)
		inode, err2 := strconv.ParseUint(w[9], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return socket{}, fmt.Errorf("%s: %w", table, err)
		}
		return socket{uid: uint32(uid), inode: inode}, nil
	}
	if err := lines.Err(); err != nil {
		return socket{}, err
	}
	return socket{}, errNoSocket
}

// tableName is an address as the table has it: the bytes in the host's order, then the port.
func tableName(a netip.AddrPort) string {
	b := a.Addr().As4()
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(b[:]), a.Port())
}

// Has reports whether a process has a socket among its descriptors. The caller must be the user of
// the process, or root.
func Has(pid int, inode uint64) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1) // those that were read before an error count
	want := "socket:[" + strconv.FormatUint(inode, 10) + "]"
	for _, name := range names {
		if to, err := os.Readlink(filepath.Join(dir, name)); err == nil && to == want {
			return true
		}
	}
	return false
}

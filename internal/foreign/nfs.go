package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"netroot/internal/export"
	"netroot/internal/guest"
	"netroot/internal/vm"
)

// Kernel is the kernel of a machine that runs a kernel's NFS server, because this host may have
// none.
type Kernel struct {
	Image     string // path of the file
	ModuleDir string
}

// Packed is a packed root that takes the place of a tree: it is mounted at the path of the tree.
type Packed struct {
	Path   string // path of the file
	FSType string
}

// NFSServer is the kernel's NFS server in a machine.
type NFSServer struct {
	Addr  netip.AddrPort // address of NFS
	Mount netip.AddrPort // address of MOUNT

	machine   *vm.Machine
	listeners []net.Listener
	control   *net.UnixConn
}

// These are the ports in the machine. That of MOUNT is the common choice for a fixed one
// (nfs.conf(5)).
const (
	nfsPort   = 2049
	mountPort = 20048
)

// serverMemory is the memory of the machine in MiB. The machine caches there what it serves.
const serverMemory = 768

// NFS starts a machine with the image's kernel and mounts the packed root in it at the path that
// the tree t has on this host. In the machine, the host's own nfs-kernel-server exports it with the
// entry that package export writes. NFS returns when the server is ready. It serves the connections
// of two listeners, for NFS and for MOUNT; see NBD for these.
func NFS(ctx context.Context, nfs, mount net.Listener, k Kernel, p Packed, t export.Tree, accel vm.Accel) (*NFSServer, error) {
	set, err := export.NFS(t)
	if err != nil {
		return nil, err
	}
	for _, program := range nfsPrograms {
		if _, err := find(program); err != nil {
			return nil, err
		}
	}
	if err := guest.Busybox(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "netroot-nfs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // qemu has read the files when the machine runs
	s := &NFSServer{
		Addr: nfs.Addr().(*net.TCPAddr).AddrPort(), Mount: mount.Addr().(*net.TCPAddr).AddrPort(),
		listeners: []net.Listener{nfs, mount},
	}
	return s, s.start(ctx, dir, k, p, t, set, accel)
}

// nfsPrograms are the programs of nfs-utils, and the portmapper that they register with.
var nfsPrograms = []string{"rpcbind", "rpc.nfsd", "rpc.mountd", "exportfs"}

func (s *NFSServer) start(ctx context.Context, dir string, k Kernel, p Packed, t export.Tree, set export.Set, accel vm.Accel) error {
	initrd := filepath.Join(dir, "initrd")
	f, err := os.Create(initrd)
	if err != nil {
		return err
	}
	g := guest.Guest{
		ModuleDir: k.ModuleDir,
		Modules:   []string{"virtio_pci", "virtio_net", "virtio_blk", p.FSType, "nfsd"},
		Programs:  nfsPrograms,
		Files:     nfsFiles(set),
		Script:    nfsScript(p.FSType, t.Path),
	}
	if err := errors.Join(g.Write(f), f.Close()); err != nil {
		return fmt.Errorf("start a machine for the kernel's NFS server: %w", err)
	}
	console := &marks{seen: make(chan struct{})}
	s.machine, err = vm.Start(ctx, vm.Config{
		Wrap: func(cmd *exec.Cmd) (started func(), err error) {
			s.control, started, err = keepIn(cmd, filepath.Join(dir, "keeper"))
			return started, err
		},
		Accel: accel, Kernel: k.Image, Mem: serverMemory, Serial: console,
		Forward: map[int]int{nfsPort: int(s.Addr.Port()), mountPort: int(s.Mount.Port())},
		Args: []string{
			"-kernel", k.Image, "-initrd", initrd, "-append", "console=ttyS0 panic=-1 quiet loglevel=4",
			"-drive", "if=virtio,format=raw,readonly=on,file=" + strings.ReplaceAll(p.Path, ",", ",,"),
		},
	})
	if err != nil {
		return fmt.Errorf("start a machine for the kernel's NFS server: %w", explain(err))
	}
	for _, l := range s.listeners {
		go forward(s.control, l)
	}
	select {
	case <-console.seen:
		if strings.Contains(console.String(), nfsReady) {
			return nil
		}
	case <-s.machine.Done():
	}
	tail := s.machine.Tail()
	s.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("the kernel's NFS server did not start; the end of its machine's console:\n    %s", strings.ReplaceAll(strings.TrimSpace(tail), "\n", "\n    "))
}

// Close ends the server and its machine.
func (s *NFSServer) Close() {
	for _, l := range s.listeners {
		l.Close()
	}
	s.machine.Kill()
	s.control.Close()
}

// Description returns the server and its address.
func (s *NFSServer) Description() string {
	return "the kernel's NFS server in a machine, on " + s.Addr.String()
}

// The script prints one of these when it has succeeded or failed.
const (
	nfsReady  = "nfs-server: ready"
	nfsFailed = "nfs-server: failed"
)

// nfsScript mounts the root and starts the server, with NFSv3 only, because NFSv4 waits 90 s for
// former clients.
func nfsScript(fstype, tree string) string {
	return fmt.Sprintf(`step() { "$@" || { echo "%[1]s: $*"; sleep 1000; }; }
mkdir -p '%[2]s' /run/rpcbind /var/lib/nfs/rpc_pipefs
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
step mount -t %[3]s -o ro /dev/vda '%[2]s'
step mount -t nfsd nfsd /proc/fs/nfsd
step rpcbind
step exportfs -a
step rpc.nfsd --no-nfs-version 4 --no-udp 8
step rpc.mountd --port %[4]d --no-nfs-version 4
echo %[5]s
while :; do sleep 1000; done
`, nfsFailed, tree, fstype, mountPort, nfsReady)
}

// nfsFiles returns the files that the programs require: the entry, the users that they run as, and
// a name for the address of their clients, so that no name server is queried.
func nfsFiles(set export.Set) map[string]string {
	files := map[string]string{
		"/etc/passwd":        "root:x:0:0:root:/:/bin/sh\n_rpc:x:101:65534::/:/bin/false\nrpc:x:102:65534::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
		"/etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"/etc/hosts":         "127.0.0.1 localhost\n10.0.2.15 server\n" + vm.GuestHost + " client\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\nrpc: files\nnetgroup: files\n",
		"/etc/netconfig":     "udp tpi_clts v inet udp - -\ntcp tpi_cots_ord v inet tcp - -\nlocal tpi_cots_ord - loopback - - -\n",
		"/etc/services":      "sunrpc 111/tcp portmapper\nsunrpc 111/udp portmapper\nnfs 2049/tcp\nmountd 20048/tcp\n",
		"/etc/protocols":     "tcp 6 TCP\nudp 17 UDP\n",
		"/etc/rpc":           "portmapper 100000\nnfs 100003\nmountd 100005\n",
		"/etc/exports":       "",
	}
	for _, f := range set.Files {
		files[path.Clean(f.For)] = f.Text
	}
	return files
}

// marks is a console that waits for a mark of the script.
type marks struct {
	mu   sync.Mutex
	text bytes.Buffer
	seen chan struct{}
}

func (m *marks) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.seen: // the mark was already received
		return len(p), nil
	default:
	}
	m.text.Write(p)
	if text := m.text.Bytes(); bytes.Contains(text, []byte(nfsReady)) || bytes.Contains(text, []byte(nfsFailed)) {
		close(m.seen)
	}
	return len(p), nil
}

func (m *marks) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

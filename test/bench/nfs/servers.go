package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"netroot/internal/proto/nfs3"
)

// server is a server to measure. start starts it on ports and returns a function that stops it. The
// path of its export is that of the directory.
type server struct {
	name     string
	twoPorts bool // MOUNT has a separate port
	start    func(ctx context.Context, tree, port, mountPort string) (pid int, stop func(), err error)
}

// servers returns the servers that can run here. For each other server it prints the reason.
func servers(ctx context.Context, dir, tree string, out io.Writer) ([]server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	all := []server{{"netroot", false, func(ctx context.Context, tree, port, _ string) (int, func(), error) {
		return child(exec.CommandContext(ctx, self, "-serve", tree, "-port", port))
	}}}
	peer := filepath.Join(dir, "gonfs")
	build := exec.CommandContext(ctx, "go", "build", "-o", peer, "./gonfs")
	build.Dir = filepath.Join("test", "oracle")
	if text, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(out, "go-nfs is skipped: %v: %s\n", err, strings.TrimSpace(string(text)))
	} else {
		all = append(all, server{"go-nfs", false, func(ctx context.Context, tree, port, _ string) (int, func(), error) {
			return child(exec.CommandContext(ctx, peer, tree, port))
		}})
	}
	if _, err := exec.LookPath("ganesha.nfsd"); err != nil {
		fmt.Fprintln(out, "nfs-ganesha is skipped: install the packages nfs-ganesha and nfs-ganesha-vfs")
		return all, nil
	}
	g := server{"nfs-ganesha", true, ganesha(dir)}
	_, stop, err := begin(ctx, g, tree)
	if err != nil {
		fmt.Fprintf(out, "nfs-ganesha is skipped: it does not run here: %v\n", err)
		return all, nil
	}
	stop()
	return append(all, g), nil
}

func child(cmd *exec.Cmd) (pid int, stop func(), err error) {
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	return cmd.Process.Pid, func() {
		cmd.Process.Kill()
		cmd.Wait()
	}, nil
}

// serveOurs serves a directory until ctx ends.
func serveOurs(ctx context.Context, tree, port string) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return err
	}
	open := func() (*nfs3.Export, error) {
		dir, err := os.Open(tree)
		if err != nil {
			return nil, err
		}
		return &nfs3.Export{
			Name: tree, ID: nfs3.IDOf(tree), Dir: dir, ReadOnly: true, TrustRoot: true, AnyPort: true,
			Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Release: func() { dir.Close() },
		}, nil
	}
	s := &nfs3.Server{
		Lookup: func(_ context.Context, path string, _ netip.AddrPort) (*nfs3.Export, string, error) {
			rest, ok := strings.CutPrefix(path, tree)
			if !ok {
				return nil, "", nfs3.ErrUnknown
			}
			e, err := open()
			return e, rest, err
		},
		Find: func(context.Context, nfs3.ID, netip.AddrPort) (*nfs3.Export, error) { return open() },
	}
	return s.Serve(ctx, l)
}

// ganesha runs nfs-ganesha with its VFS back end, in the foreground, without NFSv4, locks and
// Kerberos. It does not start unless it can register with rpcbind, so it gets a simulated one in a
// separate /run.
func ganesha(dir string) func(ctx context.Context, tree, port, mountPort string) (int, func(), error) {
	return func(ctx context.Context, tree, port, mountPort string) (int, func(), error) {
		run := filepath.Join(dir, "run")
		if err := os.MkdirAll(filepath.Join(run, "ganesha"), 0o755); err != nil {
			return 0, nil, err
		}
		config, log := filepath.Join(dir, "ganesha.conf"), filepath.Join(dir, "ganesha.log")
		if err := os.WriteFile(config, []byte(ganeshaConfig(tree, port, mountPort)), 0o644); err != nil {
			return 0, nil, err
		}
		l, err := net.Listen("unix", filepath.Join(run, "rpcbind.sock"))
		if err != nil {
			return 0, nil, err
		}
		go rpcbind(l)
		cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", `mount --bind "$1" /run && exec ganesha.nfsd -F -L "$2" -f "$3" -p "$4"`,
			"sh", run, log, config, filepath.Join(dir, "ganesha.pid"))
		pid, stop, err := child(cmd)
		if err != nil {
			l.Close()
			return 0, nil, err
		}
		return pid, func() {
			stop()
			l.Close()
		}, nil
	}
}

func ganeshaConfig(tree, port, mountPort string) string {
	return fmt.Sprintf(`NFS_CORE_PARAM { NFS_Port = %s; MNT_Port = %s; Bind_addr = 127.0.0.1; Protocols = 3;
	Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }
NFS_KRB5 { Active_krb5 = false; }
EXPORT { Export_Id = 1; Path = %q; Pseudo = /bench; Protocols = 3; Transports = TCP; SecType = sys; Squash = No_Root_Squash;
	Access_Type = RO; FSAL { Name = VFS; } }
LOG { Default_Log_Level = FATAL; }
`, port, mountPort, tree)
}

// rpcbind answers every call with success.
func rpcbind(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			for {
				var head [8]byte
				if _, err := io.ReadFull(nc, head[:]); err != nil {
					return
				}
				rest := int64(be.Uint32(head[:])&^lastFragment) - 4
				if _, err := io.CopyN(io.Discard, nc, rest); err != nil {
					return
				}
				binary.Write(nc, be, []uint32{lastFragment | 28, be.Uint32(head[4:]), 1, 0, 0, 0, 0, 1})
			}
		}()
	}
}

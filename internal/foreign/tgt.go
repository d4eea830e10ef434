package foreign

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"netroot/internal/export"
)

// ISCSI starts tgtd for the connections of l, and adds the disk as tgt-admin does at a site. The
// disk is LUN export.TgtLUN of boot.IQN(d.Image). See NBD for l.
func ISCSI(ctx context.Context, l net.Listener, d export.Disk) (*Server, error) {
	for _, program := range []string{"tgtd", "tgtadm", "tgt-admin"} {
		if _, err := find(program); err != nil {
			return nil, err
		}
	}
	s, err := prepare(l, "targets.conf", func(netip.AddrPort) (string, error) { return export.Targets(d) })
	if err != nil {
		return nil, err
	}
	// tgtadm finds the server by this socket and number (usr/mgmt.c).
	const number = "1"
	env := []string{"TGT_IPC_SOCKET=" + filepath.Join(s.dir, "tgtd")}
	if err := s.start(ctx, env, "tgtd", "--foreground", "--control-port", number, "--iscsi", "portal="+s.Addr.String()); err != nil {
		return nil, err
	}
	if err := s.ready(ctx, func(ctx context.Context) error {
		_, err := admin(ctx, env, "tgtadm", "--control-port", number, "--op", "show", "--mode", "sys")
		return err
	}); err != nil {
		return nil, err
	}
	said, err := admin(ctx, env, "tgt-admin", "--control-port", number, "--conf", filepath.Join(s.dir, "targets.conf"), "--execute")
	if err == nil {
		err = served(ctx, env, number, d, said)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// served returns an error if tgtd does not have the disk: tgt-admin skips a file that it cannot
// read, and reports success.
func served(ctx context.Context, env []string, number string, d export.Disk, said string) error {
	targets, err := admin(ctx, env, "tgtadm", "--control-port", number, "--op", "show", "--mode", "target")
	if err == nil && !strings.Contains(targets, "Backing store path: "+d.Path+"\n") {
		err = fmt.Errorf("tgt-admin did not add %s: %s", d.Path, strings.TrimSpace(said))
	}
	return err
}

// admin runs a program that controls tgtd, which accepts only root, and returns its output.
func admin(ctx context.Context, env []string, name string, args ...string) (string, error) {
	program, err := find(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	// tgt-admin runs tgtadm.
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	namespaces(cmd.SysProcAttr, 0)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", name, explain(err), strings.TrimSpace(string(out)))
	}
	return string(out), err
}

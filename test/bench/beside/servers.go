package beside

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"netroot/internal/handoff"
	"netroot/internal/store"
)

// Netroot is "netroot serve" of the program at path, for the clients of one transport, with the
// file as the packed root of an image. Each run of it is a process of its own that ends with this
// one, for then its standard input does.
func Netroot(path string, t handoff.Transport) Server {
	return Server{"netroot", func(_ context.Context, file string) (*Target, error) {
		state, err := imageOf(file)
		if err != nil {
			return nil, err
		}
		variable := "NETROOT_" + strings.ToUpper(string(t))
		cmd := exec.Command(path, "--state", state, "serve", "--image", "bench", "--run", `echo "$PPID $`+variable+`"; cat >/dev/null`)
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		stop := func() {
			stdin.Close()
			cmd.Wait()
		}
		line, err := bufio.NewReader(stdout).ReadString('\n')
		pid, url, ok := strings.Cut(strings.TrimSpace(line), " ")
		n, convErr := strconv.Atoi(pid)
		if err != nil || convErr != nil || !ok {
			stop()
			return nil, fmt.Errorf("%s serve said %q: %w", path, line, errors.Join(err, convErr))
		}
		return &Target{URL: url, PID: n, Stop: stop}, nil
	}}
}

// imageOf is a state directory beside the file, with an image of it, made when it is first asked
// for.
func imageOf(file string) (state string, err error) {
	state = file + ".state"
	if _, err := os.Stat(state); err == nil {
		return state, nil
	}
	s, err := store.Create(filepath.Join(state, "images"))
	if err != nil {
		return "", err
	}
	part := file + ".part"
	if err := os.Link(file, part); err != nil { // the store takes it away
		return "", err
	}
	_, err = s.Commit(context.Background(), "bench", store.Config{RootFormat: "squashfs", Transports: handoff.Transports()},
		[]store.Part{{Role: store.RoleRoot, Path: part}})
	return state, err
}

// Nbdkit and QemuNBD serve the file over NBD.
func Nbdkit() Server {
	return foreign("nbdkit", "nbd://127.0.0.1:%s", func(file, port string) []string {
		return []string{"nbdkit", "--foreground", "--exit-with-parent", "--readonly", "--ipaddr=127.0.0.1", "--port=" + port, "file", file}
	})
}

// QemuNBD is described at Nbdkit.
func QemuNBD() Server {
	return foreign("qemu-nbd", "nbd://127.0.0.1:%s", func(file, port string) []string {
		return []string{"qemu-nbd", "--read-only", "--persistent", "--shared=0", "--format=raw", "--bind=127.0.0.1", "--port=" + port, file}
	})
}

// foreign is a server that its command line tells everything.
func foreign(name, url string, argv func(file, port string) []string) Server {
	return Server{name, func(_ context.Context, file string) (*Target, error) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		pid, stop, err := Daemon(port, argv(file, port)...)
		if err != nil {
			return nil, err
		}
		return &Target{URL: fmt.Sprintf(url, port), PID: pid, Stop: stop}, nil
	}}
}

// nginxConf is Debian's configuration where that is about sending files.
const nginxConf = `daemon off;
user root;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log;
events { worker_connections 768; }
http {
	sendfile on;
	tcp_nopush on;
	access_log off;
	server { listen 127.0.0.1:%[2]s; root %[3]s; }
}
`

// Nginx serves the file over HTTP.
func Nginx() Server {
	return Server{"nginx", func(_ context.Context, file string) (*Target, error) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp("", "netroot-nginx-")
		if err != nil {
			return nil, err
		}
		conf := filepath.Join(dir, "nginx.conf")
		err = os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, port, filepath.Dir(file)), 0o600)
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		pid, stop, err := Daemon(port, "nginx", "-p", dir, "-e", filepath.Join(dir, "nginx.log"), "-c", conf)
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		return &Target{URL: "http://127.0.0.1:" + port + "/" + filepath.Base(file), PID: pid, Stop: func() {
			stop()
			os.RemoveAll(dir)
		}}, nil
	}}
}

const tgtdName = "iqn.2026-01.org.example:bench"

// Tgtd serves the file over iSCSI, with its own defaults, read-only. It requires root.
func Tgtd() Server {
	return Server{"tgtd", func(ctx context.Context, file string) (*Target, error) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, err
		}
		control := strconv.Itoa(n & 0x7fff) // as high as it goes
		pid, kill, err := Daemon(port, "tgtd", "--foreground", "--control-port", control, "--iscsi", "portal=127.0.0.1:"+port)
		if err != nil {
			return nil, err
		}
		stop := func() {
			kill()
			os.Remove("/var/run/tgtd/socket." + control)
			os.Remove("/var/run/tgtd/socket." + control + ".lock")
		}
		if err := setUp(ctx, file, control); err != nil {
			stop()
			return nil, err
		}
		return &Target{URL: "iscsi://127.0.0.1:" + port + "/" + tgtdName + "/1", PID: pid, Stop: stop}, nil
	}}
}

// setUp tells tgtd what to serve, as soon as it listens.
func setUp(ctx context.Context, file, control string) error {
	admin := func(args ...string) error {
		out, err := exec.CommandContext(ctx, "tgtadm", append([]string{"--control-port", control}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("tgtadm %v: %w\n%s", args, err, out)
		}
		return nil
	}
	if err := Retry(func() error { return admin("--op", "show", "--mode", "sys") }); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "--targetname", tgtdName},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store", file},
		{"--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--params", "readonly=1"},
		{"--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "ALL"},
	} {
		if err := admin(append([]string{"--lld", "iscsi"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// There are those servers whose programs are installed; ours is one.
func There(all ...Server) []Server {
	var there []Server
	for _, s := range all {
		if _, err := exec.LookPath(s.Name); s.Name != "netroot" && err != nil {
			fmt.Fprintf(os.Stderr, "%s is left out: %v\n", s.Name, err)
			continue
		}
		there = append(there, s)
	}
	return there
}

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/internal/api"
	"netroot/internal/handoff"
	"netroot/internal/proto/nbd"
	"netroot/internal/serve"
	"netroot/internal/testlog"
)

// daemonProcess is a running "netroot serve".
type daemonProcess struct {
	*exec.Cmd
	dir  string
	log  *testlog.Buffer
	at   map[string]string // addresses: "HTTP", "nbd"
	http http.Client
}

// everywhere has every server on a free port, as far as that needs no root.
var everywhere = []string{"--http", "127.0.0.1:0", "--nbd", "127.0.0.1:0", "--nvme", "127.0.0.1:0", "--iscsi", "127.0.0.1:0", "--nfs", ""}

// startDaemon serves in dir, which has a netroot.yaml or will have one.
func startDaemon(t *testing.T, cmd *exec.Cmd) *daemonProcess {
	t.Helper()
	d := &daemonProcess{Cmd: cmd, dir: cmd.Dir, log: new(testlog.Buffer), at: map[string]string{}}
	d.http.Transport = &http.Transport{DisableKeepAlives: true}
	cmd.Stdout, cmd.Stderr = d.log, d.log
	must(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	d.logged(t, "netroot: serving ")
	for _, m := range regexp.MustCompile(`(\w+) on ([0-9.]+:[0-9]+)`).FindAllStringSubmatch(d.log.String(), -1) {
		d.at[m[1]] = m[2]
	}
	return d
}

// serving is the command line of a daemon in dir. A user's socket is there, too.
func serving(t *testing.T, dir string, args ...string) *exec.Cmd {
	cmd := netroot(t, dir, append([]string{"--state", "state", "serve"}, args...)...)
	cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+dir)
	return cmd
}

// logged waits for one line of the log that has all words.
func (d *daemonProcess) logged(t *testing.T, words ...string) {
	t.Helper()
	d.loggedAfter(t, 0, words...)
}

// loggedAfter looks from that byte of the log on.
func (d *daemonProcess) loggedAfter(t *testing.T, from int, words ...string) {
	t.Helper()
	poll(t, fmt.Sprintf("a line with %q", words), func() bool {
	lines:
		for line := range strings.Lines(d.log.String()[from:]) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return true
		}
		return false
	}, func() string { return d.log.String() })
}

func (d *daemonProcess) script(t *testing.T, ref string) string {
	t.Helper()
	resp, err := d.http.Get("http://" + d.at["HTTP"] + "/boot/" + ref + ".ipxe")
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(body)
}

// plan is what "netroot plan" prints as the script, and what it says besides.
func (d *daemonProcess) plan(t *testing.T, ref string) (script, said string) {
	t.Helper()
	cmd := netroot(t, d.dir, "--state", "state", "plan", ref, "--ipxe", "--server", d.at["HTTP"])
	cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+d.dir)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("plan: %v\n%s", err, &stderr)
	}
	return out.String(), stderr.String()
}

// health asks through the socket for commands.
func (d *daemonProcess) health(t *testing.T) serve.Health {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", d.dir)
	state, err := filepath.Abs(filepath.Join(d.dir, "state"))
	must(t, err)
	t.Setenv(api.RunDirVariable, d.dir)
	sockets := api.Sockets(state)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", sockets[len(sockets)-1])
	}}}
	resp, err := c.Get("http://netroot" + api.HealthPath)
	must(t, err)
	defer resp.Body.Close()
	var h serve.Health
	must(t, json.NewDecoder(resp.Body).Decode(&h))
	if h.Ready != (resp.StatusCode == http.StatusOK) {
		t.Errorf("ready %v with %s", h.Ready, resp.Status)
	}
	return h
}

// end sends a signal and waits for the end.
func (d *daemonProcess) end(t *testing.T, s syscall.Signal) (status int) {
	t.Helper()
	must(t, d.Process.Signal(s))
	d.Wait()
	return d.ProcessState.ExitCode()
}

func write(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644))
}

// attachment is a client of NBD that reads on one connection.
type attachment struct {
	net.Conn
	n uint64
}

func attach(t *testing.T, address, export string) *attachment {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	must(t, err)
	t.Cleanup(func() { nc.Close() })
	_, err = nbd.Handshake(t.Context(), nc, export)
	must(t, err)
	return &attachment{Conn: nc}
}

// read reads bytes of the export: a request and its simple reply (NBD's proto.md).
func (a *attachment) read(t *testing.T, off uint64, length int) []byte {
	t.Helper()
	a.n++
	req := binary.BigEndian.AppendUint32(nil, 0x25609513)
	req = binary.BigEndian.AppendUint32(req, 0) // no flags, READ
	req = binary.BigEndian.AppendUint64(req, a.n)
	req = binary.BigEndian.AppendUint64(req, off)
	req = binary.BigEndian.AppendUint32(req, uint32(length))
	must(t, a.SetDeadline(time.Now().Add(20*time.Second)))
	_, err := a.Write(req)
	must(t, err)
	reply := make([]byte, 16+length)
	_, err = io.ReadFull(a, reply)
	must(t, err)
	if binary.BigEndian.Uint32(reply) != 0x67446698 || binary.BigEndian.Uint32(reply[4:]) != 0 {
		t.Fatalf("reply % x", reply[:16])
	}
	return reply[16:]
}

// What is written is what is served, before and after: an edit is followed, a broken file changes
// nothing and is named, and whoever is attached stays so until the end.
func TestDaemonFollowsConfiguration(t *testing.T) {
	dir := t.TempDir()
	yaml := filepath.Join(dir, "netroot.yaml")
	root := bytes.Repeat([]byte("netroot "), 1<<12)
	must(t, makeImage(filepath.Join(dir, "state"), "tiny", root))
	write(t, yaml, "labels:\n  tiny:\n    cmdline: one\n")
	d := startDaemon(t, serving(t, dir, everywhere...))
	client := attach(t, d.at["nbd"], "tiny")
	agree := func(want, said string) string {
		t.Helper()
		script := d.script(t, "tiny")
		plan, stderr := d.plan(t, "tiny")
		if plan != script || !strings.Contains(script, " "+want+" ") {
			t.Errorf("planned:\n%s\nserved:\n%s\nwanted: %s", plan, script, want)
		}
		if !strings.Contains(stderr, "netroot: plan of the running daemon, revision ") || !strings.Contains(stderr, said) {
			t.Errorf("plan says %q", stderr)
		}
		if got := client.read(t, 4096, 512); !bytes.Equal(got, root[4096:4608]) {
			t.Error("the attached client reads something else")
		}
		return script
	}
	first := agree("one", "")
	before := d.health(t)
	for end := time.Now().Add(10 * time.Second); before.Servers[handoff.NBD].Sent < 512 && time.Now().Before(end); {
		before = d.health(t) // the server counts bytes after it has sent them
	}
	if !before.Ready || before.Failure != nil || len(before.Problems) != 0 || before.Servers[handoff.NBD].Attached != 1 || before.Servers[handoff.NBD].Sent < 512 {
		t.Errorf("health %+v", before)
	}

	write(t, yaml+".new", "labels:\n  tiny:\n    cmdline: two\n  other: {}\n")
	must(t, os.Rename(yaml+".new", yaml))
	d.logged(t, "configuration: read again", `changes="labels added: other; label tiny changed: cmdline"`)
	if second := agree("two", ""); second == first {
		t.Error("the edit does not show")
	}
	d.logged(t, "not served", "label other has no image yet")

	write(t, yaml, "labels:\n  tiny:\n    cmdlin: three\n")
	d.logged(t, "level=ERROR", "configuration: not read again", "netroot.yaml:3:5: ", "in force", "revision ")
	agree("two", "the file is not in force: ")
	if h := d.health(t); h.Failure == nil || !strings.Contains(h.Failure.Text, `did you mean "cmdline"`) || h.Revision == before.Revision || !h.Ready {
		t.Errorf("health %+v", h)
	}
	from := len(d.log.String())
	must(t, d.Process.Signal(syscall.SIGHUP))
	d.loggedAfter(t, from, "SIGHUP")
	d.loggedAfter(t, from, "level=ERROR", "configuration: not read again", "netroot.yaml:3:5: ")
	agree("two", "")

	write(t, yaml, "labels:\n  tiny:\n    cmdline: three\n")
	must(t, d.Process.Signal(syscall.SIGHUP))
	d.logged(t, "configuration: read again", "changes=", "labels removed: other")
	agree("three", "")
	if h := d.health(t); h.Failure != nil {
		t.Errorf("health %+v", h.Failure)
	}

	if status := d.end(t, syscall.SIGTERM); status != 143 {
		t.Errorf("exit status %d\n%s", status, d.log)
	}
	d.logged(t, "nbd: left", "bytes=")
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client's connection: %v", err)
	}
	cmd := netroot(t, dir, "--state", "state", "plan", "tiny")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "netroot: no daemon is running: plan of "+yaml+", revision ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The file names the state directory, and with it the daemon's socket. Neither a broken file nor a
// removed one keeps "netroot plan" from the daemon. A directory whose symbolic link is changed is
// noticed.
func TestPlanOfBrokenFile(t *testing.T) {
	dir := t.TempDir()
	state := filepath.Join(dir, "elsewhere")
	must(t, makeImage(state, "tiny", []byte("root")))
	for i, cmdline := range []string{"one", "two"} {
		write(t, filepath.Join(dir, fmt.Sprint("site", i), "netroot.yaml"), "state: "+state+"\nlabels:\n  tiny:\n    cmdline: "+cmdline+"\n")
	}
	current := filepath.Join(dir, "current")
	must(t, os.Symlink("site0", current))
	yaml := filepath.Join(current, "netroot.yaml")
	run := func(args ...string) *exec.Cmd {
		cmd := netroot(t, dir, append([]string{"--config", yaml}, args...)...)
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+dir)
		return cmd
	}
	d := startDaemon(t, run(append([]string{"serve"}, everywhere...)...))
	must(t, os.Symlink("site1", current+".new"))
	must(t, os.Rename(current+".new", current))
	d.logged(t, "configuration: read again", "label tiny changed: cmdline")

	plan := func(said string) {
		t.Helper()
		out, err := run("plan", "tiny").CombinedOutput()
		if err != nil || !strings.Contains(string(out), " two\n") || !strings.Contains(string(out), "plan of the running daemon") || !strings.Contains(string(out), said) {
			t.Errorf("%v\n%s", err, out)
		}
	}
	write(t, yaml, "labels:\n  tiny:\n    cmdlin: three\n")
	d.logged(t, "level=ERROR", "netroot.yaml:3:5: ")
	plan("the file is not in force: " + yaml + ":3:5: unknown key")
	must(t, os.Remove(yaml))
	plan("the file is not in force: configuration: stat " + yaml)
	out, err := run("plan", "nosuch").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no such image: nosuch") || strings.Contains(string(out), "not found") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = run("plan", "tiny", "--arch", "x86_64").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A daemon that cannot start leaves no socket behind.
func TestDaemonThatCannotStart(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "netroot.yaml"), "labels:\n  tiny: {}\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	out, err := serving(t, dir, "--socket", "api.sock", "--http", taken.Addr().String(), "--nbd", "", "--nvme", "", "--iscsi", "", "--nfs", "").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is in use") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Lstat(filepath.Join(dir, "api.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// A daemon that has nothing yet starts, says so, and serves what comes.
func TestDaemonStartsWithNothing(t *testing.T) {
	dir := t.TempDir()
	d := startDaemon(t, serving(t, dir, append(everywhere, "--image", "tiny")...))
	d.logged(t, "not served", "the configuration has no labels")
	d.logged(t, "not served", "--image: ")
	if script := d.script(t, "tiny"); script != "no such image: tiny\n" {
		t.Errorf("served %q", script)
	}
	write(t, filepath.Join(dir, "netroot.yaml"), "labels:\n  tiny:\n    layers: [site]\n")
	d.logged(t, "configuration: read again", "labels added: tiny")
	write(t, filepath.Join(dir, "layers/site/etc/motd"), "hello")
	d.logged(t, "layer rendered", "layer=site")
	must(t, makeImage(filepath.Join(dir, "state"), "tiny", []byte("root of the first build")))
	poll(t, "the first build is served", func() bool { return strings.Contains(d.script(t, "tiny"), "/v1/layers/sha256:") },
		func() string { return d.script(t, "tiny") })
	if h := d.health(t); len(h.Problems) != 0 || !h.Ready {
		t.Errorf("health %+v", h)
	}
	if status := d.end(t, syscall.SIGINT); status != 130 {
		t.Errorf("exit status %d\n%s", status, d.log)
	}
}

// Where the key of NFS handles cannot be kept, NFS is left out, and all say why.
func TestDaemonWithoutState(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root starts the NFS server")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	write(t, filepath.Join(dir, "netroot.yaml"), "labels:\n  tiny:\n    transport: nfs\n")
	args := append([]string{"--state", "file/state", "serve"}, everywhere...)
	args[len(args)-1] = "127.0.0.1:0"
	d := startDaemon(t, netroot(t, dir, args...))
	d.logged(t, "the NFS server is not started", "file/state")
	if d.at["nfs"] != "" || d.at["nbd"] == "" {
		t.Errorf("it listens at %v", d.at)
	}
	d.logged(t, "not served", "nfs: the key of its file handles cannot be kept")
	d.end(t, syscall.SIGTERM)
}

// An edit of a layer is served within a moment, and what a machine was told of before stays to be
// fetched.
func TestDaemonRendersLayers(t *testing.T) {
	dir := t.TempDir()
	must(t, makeImage(filepath.Join(dir, "state"), "tiny", []byte("root")))
	write(t, filepath.Join(dir, "netroot.yaml"), "labels:\n  tiny:\n    layers: [site]\n")
	motd := filepath.Join(dir, "layers/site/etc/motd")
	write(t, motd, "first edition")
	d := startDaemon(t, serving(t, dir, everywhere...))
	where := regexp.MustCompile(`netroot\.layer=(http://\S+)`)
	layer := func() string {
		m := where.FindStringSubmatch(d.script(t, "tiny"))
		if m == nil {
			t.Fatalf("no layer in\n%s", d.script(t, "tiny"))
		}
		return m[1]
	}
	fetch := func(url string) string {
		resp, err := d.http.Get(url)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		return string(body)
	}
	first := layer()
	write(t, motd, "second edition")
	edited := time.Now()
	poll(t, "the edit is served", func() bool { return layer() != first }, d.log.String)
	t.Logf("served %v after the edit", time.Since(edited).Round(time.Millisecond))
	if got := fetch(layer()); !strings.Contains(got, "second edition") {
		t.Error("the new layer has something else")
	}
	if got := fetch(first); !strings.Contains(got, "first edition") {
		t.Error("the layer of before is gone")
	}
	d.end(t, syscall.SIGTERM)
}

// The service manager is told what happens, and its sockets are used.
func TestDaemonUnderSystemd(t *testing.T) {
	dir := t.TempDir()
	must(t, makeImage(filepath.Join(dir, "state"), "tiny", []byte("root")))
	write(t, filepath.Join(dir, "netroot.yaml"), "labels:\n  tiny: {}\n")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	must(t, err)
	defer f.Close()
	u, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(dir, "notify")})
	must(t, err)
	defer u.Close()
	told := func(want string) {
		t.Helper()
		must(t, u.SetReadDeadline(time.Now().Add(20*time.Second)))
		b := make([]byte, 4096)
		n, err := u.Read(b)
		must(t, err)
		if ok, _ := regexp.MatchString(want, string(b[:n])); !ok {
			t.Errorf("told %q, want %q", b[:n], want)
		}
	}
	cmd := serving(t, dir, append(everywhere, "--health", "127.0.0.1:0")...)
	// The variable names the process that is to take the sockets.
	sh := exec.Command("/bin/sh", append([]string{"-c", `export LISTEN_PID=$$; exec "$0" "$@"`, filepath.Join(dir, "netroot")}, cmd.Args[1:]...)...)
	self, err := os.Executable()
	must(t, err, os.Symlink(self, filepath.Join(dir, "netroot")))
	sh.Dir, sh.ExtraFiles = dir, []*os.File{f}
	sh.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=http", "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	d := startDaemon(t, sh)
	told(`^READY=1\nSTATUS=revision [0-9a-f]{12} of .*, labels: 1$`)
	if d.at["HTTP"] != l.Addr().String() {
		t.Errorf("HTTP on %s, and the socket is %s", d.at["HTTP"], l.Addr())
	}
	if !strings.HasPrefix(d.script(t, "tiny"), "#!ipxe\n") {
		t.Error("the socket is not served")
	}
	resp, err := d.http.Get("http://" + d.at["HTTP"] + serve.HealthPath)
	must(t, err)
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if must(t, err); resp.StatusCode != 200 || string(body) != "{\n  \"ready\": true\n}\n" {
		t.Errorf("machines are told %s\n%s", resp.Status, body)
	}
	must(t, d.Process.Signal(syscall.SIGHUP))
	told(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+$`)
	told(`^READY=1\nSTATUS=`)
	write(t, filepath.Join(dir, "netroot.yaml"), "labels:\n  tiny: {}\n  other: {}\n")
	told(`^STATUS=revision [0-9a-f]{12} of .*, labels: 2$`)
	must(t, d.Process.Signal(syscall.SIGTERM))
	told(`^STOPPING=1$`)
	if d.Wait(); d.ProcessState.ExitCode() != 143 {
		t.Errorf("exit status %d\n%s", d.ProcessState.ExitCode(), d.log)
	}
}

// A process of root keeps the capabilities of its tasks and no others, and serves all the same.
func TestDaemonDropsPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root has capabilities to drop")
	}
	dir := t.TempDir()
	must(t, makeImage(filepath.Join(dir, "state"), "tiny", []byte("root")))
	write(t, filepath.Join(dir, "netroot.yaml"), "networks: [127.0.0.0/8]\nlabels:\n  tiny: {}\n  tree: {rw: true}\n")
	motd := filepath.Join(dir, "state/trees/tree/etc/motd")
	write(t, motd, "for its owner")
	must(t, os.Chmod(motd, 0o600), os.Chown(motd, 1234, 1234))
	program := filepath.Join(dir, "netroot")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, test := range []struct{ nfs, want string }{
		{"", "0000000000000004"},            // dac_read_search
		{"127.0.0.1:0", "00000000080000df"}, // and chown, dac_override, fowner, fsetid, setgid, setuid, mknod
	} {
		args := append([]string{"--state", "state", "serve"}, everywhere...)
		args[len(args)-1] = test.nfs
		cmd := exec.Command(program, args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), api.RunDirVariable+"="+dir)
		d := startDaemon(t, cmd)
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", cmd.Process.Pid))
		must(t, err)
		for _, file := range threads {
			status, err := os.ReadFile(file)
			if err != nil {
				continue // the thread has ended
			}
			for _, set := range []string{"CapEff", "CapBnd"} {
				if !strings.Contains(string(status), set+":\t"+test.want+"\n") {
					t.Errorf("--nfs %q: a thread has\n%s, want %s %s", test.nfs, status, set, test.want)
				}
			}
			if !strings.Contains(string(status), "NoNewPrivs:\t1\n") {
				t.Errorf("--nfs %q: programs may gain privileges", test.nfs)
			}
		}
		if !strings.HasPrefix(d.script(t, "tiny"), "#!ipxe\n") {
			t.Errorf("--nfs %q: no script", test.nfs)
		}
		if test.nfs != "" {
			readTree(t, d.at["nfs"])
		}
		if status := d.end(t, syscall.SIGTERM); status != 143 {
			t.Errorf("exit status %d\n%s", status, d.log)
		}
	}
}

// readTree reads a file over NFS: root and its owner may, others may not.
func readTree(t *testing.T, address string) {
	t.Helper()
	client, err := exec.LookPath("nfs-cat")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	} else if err != nil {
		t.Log("libnfs is missing, so nothing is read over NFS: ", err)
		return
	}
	host, port, err := net.SplitHostPort(address)
	must(t, err)
	for who, want := range map[int]bool{0: true, 1234: true, 77: false} {
		url := fmt.Sprintf("nfs://%s/tree/etc/motd?version=3&nfsport=%s&mountport=%s&uid=%d&gid=%d", host, port, port, who, who)
		out, err := exec.Command(client, url).CombinedOutput()
		if (err == nil && string(out) == "for its owner") != want {
			t.Errorf("user %d: %v\n%s", who, err, out)
		}
	}
}

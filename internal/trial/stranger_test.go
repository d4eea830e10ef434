package trial

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"netroot/internal/boot"
	"netroot/internal/captive"
	"netroot/internal/gate"
	"netroot/internal/handoff"
	"netroot/internal/site"
	"netroot/internal/vm"
	"netroot/test/bench/load"
)

// nvmeClient connects as an NVMe host does. nvme(1) would need the kernel for it.
func nvmeClient(where string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	address, nqn, err := load.ParseNVMe(where)
	if err == nil {
		var h *load.Host
		if h, err = load.NVMe(ctx, address, nqn, 0); err == nil {
			h.Close()
			fmt.Println("connected to", nqn)
			return 0
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// client is a command of the shell, and what it prints when it got something.
type client struct{ command, shows string }

// clients are for every server, with all that a user of this host could find out.
func (s *Servers) clients(t *testing.T, o Options) map[string]client {
	t.Helper()
	roots := maps.Clone(s.roots)
	if s.foreign != nil {
		roots = map[handoff.Transport]net.Listener{s.foreign.transport: s.foreign.listeners[0]}
	}
	environ, err := captive.Addresses(o.Request.Image, s.http, roots, false)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		at[name] = value
	}
	portal, _, _ := strings.Cut(at["NETROOT_ISCSI"], "/iqn")
	all := map[string]client{
		"boot script": {"curl -sSf '" + strings.Replace(s.Script, vm.GuestHost, "127.0.0.1", 1) + "'", "#!ipxe"},
		"image":       {"curl -sSf " + at["NETROOT_HTTP"], "root"},
		"layer":       {"curl -sSf http://" + s.http.Addr().String() + boot.LayerPath + layerOf(t, o.Key.Layer) + " | tr -d '\\000'", "authorized_keys"},
	}
	if nbd := at["NETROOT_NBD"]; nbd != "" {
		all["nbd"] = client{"nbdcopy " + nbd + " - | tr -d '\\000'", "root"}
	}
	if portal != "" {
		all["iscsi"] = client{"iscsi-ls -s " + portal, "Target:iqn"}
	}
	if nvme := at["NETROOT_NVME"]; nvme != "" {
		all["nvme"] = client{"TRIAL_TEST_NVME='" + nvme + "' /proc/self/fd/3", "connected"}
	}
	if nfs := at["NETROOT_NFS"]; nfs != "" {
		image, options, _ := strings.Cut(nfs+"&uid=0&gid=0", "?")
		server, _, _ := strings.Cut(image, boot.ImagesPath)
		tree := server + boot.TreePath("tiny")
		all["nfs image"] = client{"nfs-cat '" + nfs + "'", "root"}
		all["nfs tree"] = client{"nfs-ls -R '" + tree + "?" + options + "'", "shadow"}
		all["nfs secret"] = client{"nfs-cat '" + tree + "/shadow?" + options + "'", "secret"}
		all["nfs write"] = client{"nfs-cp /etc/hostname '" + tree + "/planted?" + options + "' && echo written", "written"}
	}
	return all
}

// run runs a client, which waits until its process is known.
func (c client) run(t *testing.T, user uint32, known func(pid int)) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	// The client is a child of the shell, whose sockets are looked at.
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "read go; "+c.command)
	cmd.Dir, cmd.ExtraFiles = "/", []*os.File{self}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if user != uint32(os.Getuid()) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user, Gid: user}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	known(cmd.Process.Pid)
	fmt.Fprintln(stdin)
	cmd.Wait() // the output tells
	if ctx.Err() != nil {
		t.Errorf("%s does not end: %s", c.command, out.Bytes())
	}
	return out.String()
}

// children are a process and those that it has started.
func children(pid int) []int {
	all := []int{pid}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	for _, word := range strings.Fields(string(text)) {
		var child int
		fmt.Sscan(word, &child)
		all = append(all, children(child)...)
	}
	return all
}

// TestStrangers runs clients of every server beside a machine's servers: as another user, or at
// least another process, they get nothing. The same clients do get it as the process that the
// servers are for.
func TestStrangers(t *testing.T) {
	for _, program := range []string{"curl", "nbdcopy", "iscsi-ls", "nbd-server", "tgtd", "nfs-ls", "nfs-cat", "nfs-cp"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	type trial struct {
		server    string
		transport handoff.Transport
		rw        bool
		lacks     []string // what even the machine does not get
	}
	trials := map[string]trial{"nvme": {transport: handoff.NVMe}}
	if os.Getuid() == 0 {
		trials = map[string]trial{
			"nbd-server": {server: KernelServer, transport: handoff.NBD},
			"tgtd":       {server: KernelServer, transport: handoff.ISCSI},
			"rw":         {rw: true},
			"nfs":        {transport: handoff.NFS, lacks: []string{"nfs write"}},
			"nfs-image":  {transport: handoff.NFSImage, lacks: []string{"nfs tree", "nfs secret", "nfs write"}},
		}
	}
	for name, v := range trials {
		t.Run(name, func(t *testing.T) {
			o := options(t, site.Label{Transport: v.transport, Overlay: site.DefaultOverlay(), Tree: t.TempDir()})
			o.Server, o.Request.Add.RW = v.server, v.rw
			testStrangers(t, o, v.lacks)
		})
	}
}

func testStrangers(t *testing.T, o Options, lacks []string) {
	tree := o.Site.Tree("tiny")
	if err := os.WriteFile(filepath.Join(tree, "shadow"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	var machine, told atomic.Int64
	o.Say = func(text string) {
		if strings.Contains(text, "only the machine that was started may connect") {
			told.Add(1)
		}
	}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() { <-done })
	s.Admit(func(inode uint64) bool {
		for _, pid := range children(int(machine.Load())) {
			if gate.Has(pid, inode) {
				return true
			}
		}
		return false
	})
	user := uint32(os.Getuid())
	if user == 0 {
		user = 65534 // nobody
	}
	for name, c := range s.clients(t, o) {
		machine.Store(1 << 30) // a process that is not there
		if got := c.run(t, user, func(int) {}); strings.Contains(got, c.shows) {
			t.Errorf("%s: a stranger got %q", name, got)
		}
		if _, err := os.Stat(filepath.Join(tree, "planted")); err == nil {
			t.Fatal("a stranger wrote to the tree")
		}
		want := !slices.Contains(lacks, name)
		if got := c.run(t, uint32(os.Getuid()), func(pid int) { machine.Store(int64(pid)) }); strings.Contains(got, c.shows) != want {
			t.Errorf("%s: the machine got %q", name, got)
		}
		os.Remove(filepath.Join(tree, "planted"))
	}
	if told.Load() != 1 {
		t.Errorf("the user was told of strangers %d times", told.Load())
	}
}

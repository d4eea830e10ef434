package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"netroot/internal/layer"
)

// guest is an ssh server that behaves like a machine behind qemu's forward: it accepts connections
// from the start, but drops the first ones.
type guest struct {
	t       *testing.T
	l       net.Listener
	config  *ssh.ServerConfig
	useless int32 // number of connections to drop before the first that is served
	tries   atomic.Int32
	all     sync.WaitGroup
}

func startGuest(t *testing.T, useless int32, authorized []byte) *guest {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, l: l, useless: useless}
	g.config = &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() == "root" && bytes.Equal(ssh.MarshalAuthorizedKey(k), authorized) {
			return nil, nil
		}
		return nil, errors.New("no")
	}}
	g.config.AddHostKey(host.signer)
	g.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.all.Go(func() { g.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); g.all.Wait() })
	return g
}

func (g *guest) port() int { return g.l.Addr().(*net.TCPAddr).Port }

func (g *guest) serve(c net.Conn) {
	defer c.Close()
	if g.tries.Add(1) <= g.useless {
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(c, g.config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		channel, requests, err := ch.Accept()
		if err != nil {
			return
		}
		for req := range requests {
			if req.Type != "exec" {
				continue
			}
			req.Reply(true, nil)
			if g.exec(channel, string(req.Payload[4:])) {
				return
			}
		}
	}
}

// exec acts as a shell with few commands. It returns true if the machine must vanish.
func (g *guest) exec(ch ssh.Channel, command string) (vanish bool) {
	word, arg, _ := strings.Cut(command, " ")
	switch word {
	case "echo":
		io.WriteString(ch, arg+"\n")
		io.WriteString(ch.Stderr(), "warning\n")
		ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
	case "exit":
		n, _ := strconv.Atoi(arg)
		ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(n)}))
	case "kill":
		ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Signal     string
			Core       bool
			Text, Lang string
		}{"KILL", false, "", ""}))
	case "hang":
		return false
	case "vanish":
		return true
	}
	ch.Close()
	return false
}

func running(port int) *Machine { return &Machine{SSHPort: port, done: make(chan struct{})} }

func newKey(t *testing.T) Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSSH(t *testing.T) {
	key := newKey(t)
	g := startGuest(t, 2, key.Authorized)
	c, err := running(g.port()).SSH(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := g.tries.Load(); n != 3 {
		t.Errorf("logged in at try %d", n)
	}
	var stdout, stderr bytes.Buffer
	for command, want := range map[string]int{"echo hello there": 0, "exit 3": 3, "exit 255": 255, "kill": 128 + 9} {
		if status, err := c.Run(t.Context(), command, &stdout, &stderr); err != nil || status != want {
			t.Errorf("%s: %d, %v", command, status, err)
		}
	}
	if stdout.String() != "hello there\n" || stderr.String() != "warning\n" {
		t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Run(ctx, "hang", io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	if _, err := c.Run(t.Context(), "vanish", io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), `while "vanish" ran`) {
		t.Errorf("vanished: %v", err)
	}
}

func TestSSHRefusedKey(t *testing.T) {
	g := startGuest(t, 0, newKey(t).Authorized)
	_, err := running(g.port()).SSH(t.Context(), newKey(t))
	if err == nil || !strings.Contains(err.Error(), "does not accept the key") || g.tries.Load() != 1 {
		t.Errorf("after %d tries: %v", g.tries.Load(), err)
	}
}

func TestSSHWaitsNoLongerThanTheMachine(t *testing.T) {
	g := startGuest(t, 1<<30, nil)
	m := running(g.port())
	m.tail = "Kernel panic - not syncing"
	go func() {
		m.err = errors.New("exit status 7")
		close(m.done)
	}()
	_, err := m.SSH(t.Context(), newKey(t))
	if err == nil || !strings.Contains(err.Error(), "has ended: exit status 7") || !strings.Contains(err.Error(), "\n    Kernel panic") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := running(g.port()).SSH(ctx, newKey(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestReadKey(t *testing.T) {
	dir := t.TempDir()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, _ := ssh.NewSignerFromKey(private)
	public := ssh.MarshalAuthorizedKey(signer.PublicKey())
	block, _ := ssh.MarshalPrivateKey(private, "")
	secret, _ := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("x"))
	for name, content := range map[string][]byte{
		"id": pem.EncodeToMemory(block), "id.pub": []byte(strings.TrimSpace(string(public)) + " me@here\n"),
		"locked": pem.EncodeToMemory(secret), "other": []byte("hello"),
	} {
		os.WriteFile(filepath.Join(dir, name), content, 0o600)
	}
	for name, login := range map[string]bool{"id": true, "id.pub": false} {
		k, err := ReadKey(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(k.Authorized, public) || k.CanLogIn() != login {
			t.Errorf("%s: %+v, %v", name, k, err)
		}
	}
	for name, want := range map[string]string{"locked": "locked.pub", "other": "neither", "none": "no such file"} {
		if _, err := ReadKey(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := running(1).SSH(t.Context(), Key{Authorized: public}); err == nil {
		t.Error("logged in with a public key")
	}
}

func TestKeyLayer(t *testing.T) {
	key := newKey(t)
	archive, err := key.Layer()
	if err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(bytes.NewReader(archive))
	dir, err := tr.Next()
	if err != nil || dir.Name != "root/.ssh/" || dir.Mode != 0o700 {
		t.Errorf("%+v, %v", dir, err)
	}
	file, err := tr.Next()
	if err != nil || file.Name != "root/.ssh/authorized_keys" || file.Mode != 0o600 || file.Uid != 0 {
		t.Errorf("%+v, %v", file, err)
	}
	if b, _ := io.ReadAll(tr); !bytes.Equal(b, key.Authorized) || !bytes.HasPrefix(b, []byte("ssh-ed25519 ")) {
		t.Errorf("%q", b)
	}
}

// TestRunLayer checks the key for a root that stays unchanged: the layer has files only below run/,
// and the command there returns the key only for root.
func TestRunLayer(t *testing.T) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	archive, err := key.RunLayer()
	if err != nil {
		t.Fatal(err)
	}
	if err := layer.Below(archive, "run"); err != nil {
		t.Error(err)
	}
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		hdr, err := tr.Next()
		if err != nil {
			t.Fatalf("no command in the layer: %v", err)
		}
		if hdr.Name == "run/netroot/authorized-keys" {
			break
		}
	}
	script := filepath.Join(t.TempDir(), "authorized-keys")
	text, err := io.ReadAll(tr)
	if err == nil {
		err = os.WriteFile(script, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"root": string(key.Authorized), "daemon": ""} {
		out, _ := exec.Command("/bin/sh", script, user).Output()
		if string(out) != want {
			t.Errorf("%s gets %q, want %q", user, out, want)
		}
	}
}

package systemd

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/internal/testlog"
)

// TestMain is, in a child, the daemon that takes sockets: descriptors from 3 on, as systemd passes
// them.
func TestMain(m *testing.M) {
	if os.Getenv("TAKE_SOCKETS") == "" {
		os.Exit(m.Run())
	}
	os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
	s, err := Take([]string{"http", "portmap"})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(0)
	}
	fmt.Println("names:", s.Names())
	if p := s.Packet("portmap"); p != nil {
		p.Close()
	}
	if l := s.Stream("http"); l != nil {
		c, err := l.Accept()
		if err == nil {
			io.WriteString(c, "served")
			c.Close()
		}
	}
	s.Close()
	fmt.Println("left:", s.Names(), os.Getenv("LISTEN_FDS"))
	os.Exit(0)
}

func TestTake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	stream, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	packet, err := u.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	defer packet.Close()
	daemon := func(names string, files ...*os.File) string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TAKE_SOCKETS=1", fmt.Sprint("LISTEN_FDS=", len(files)), "LISTEN_FDNAMES="+names)
		cmd.ExtraFiles = files
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return string(out)
	}
	answer := make(chan string, 1)
	go func() { // queued by the kernel until the daemon accepts
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		b, _ := io.ReadAll(c)
		answer <- string(b)
	}()
	if got, want := daemon("http:portmap", stream, packet), "names: [http portmap]\nleft: [] \n"; got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	if got := <-answer; got != "served" {
		t.Errorf("the client got %q", got)
	}
	if got := daemon(""); got != "names: []\nleft: [] \n" {
		t.Errorf("without sockets: %q", got)
	}
	for names, want := range map[string]string{
		"netroot.socket": `a socket is called "netroot.socket": set FileDescriptorName= in its unit to one of http, portmap`,
		"http:http":      `two sockets are called "http"`,
	} {
		if got := daemon(names, []*os.File{stream, stream}[:strings.Count(names, ":")+1]...); !strings.Contains(got, want) {
			t.Errorf("%s: said %q", names, got)
		}
	}
}

func TestManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	u, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	log := new(testlog.Buffer)
	m := Manager{Log: slog.New(slog.NewTextHandler(log, nil))}
	m.Ready("unheard") // there is no manager
	t.Setenv("NOTIFY_SOCKET", path)
	for want, tell := range map[string]func(){
		"READY=1\nSTATUS=serving a":     func() { m.Ready("serving a\nb") },
		"STATUS=busy":                   func() { m.Status("busy") },
		"RELOADING=1\nMONOTONIC_USEC=*": func() { m.Reloading() },
		"STOPPING=1":                    func() { m.Stopping() },
	} {
		tell()
		u.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 1000)
		n, err := u.Read(b)
		if ok, _ := filepath.Match(want, string(b[:n])); err != nil || !ok {
			t.Errorf("%q, %v, want %q", b[:n], err, want)
		}
	}
	u.Close()
	m.Stopping()
	if !strings.Contains(log.String(), `what="STOPPING=1"`) {
		t.Errorf("log:\n%s", log)
	}
}

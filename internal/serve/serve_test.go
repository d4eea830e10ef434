package serve

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/layer/folder"
	"netroot/internal/proto/accept"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a running server over a store with one image of the label "debian".
type fixture struct {
	*Server
	store  *store.Store
	image  *store.Image
	root   []byte // the packed root
	layer  []byte
	layers *folder.Folder
	url    string // http://HOST:PORT
	nbd    string // HOST:PORT
	log    *testlog.Buffer
}

// labels is a Site with these labels.
func labels(all ...site.Label) *site.Site {
	s := site.Empty()
	for _, l := range all {
		s.Labels[l.Name] = &l
	}
	return s
}

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func commit(t testing.TB, s *store.Store, label string, parts map[store.Role][]byte) *store.Image {
	t.Helper()
	var list []store.Part
	for role, content := range parts {
		file := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		list = append(list, store.Part{Role: role, Path: file})
	}
	im, err := s.Commit(context.Background(), label, store.Config{Architecture: "amd64", RootFormat: "squashfs", System: "Test Linux", Transports: handoff.Transports()}, list)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func start(t *testing.T) *fixture {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{store: s, root: random(1, 3<<20), log: new(testlog.Buffer)}
	f.image = commit(t, s, "debian", map[store.Role][]byte{
		store.RoleRoot: f.root, store.RoleKernel: random(2, 70000),
		store.RoleInitramfs: random(3, 5000), store.RoleInitramfsHardware: random(4, 6000),
	})
	var b layer.Builder
	b.AddFile("root/.ssh/authorized_keys", 0o600, 0, 0, []byte("ssh-ed25519 AAAA"))
	if f.layer, err = b.Archive(); err != nil {
		t.Fatal(err)
	}
	listen := func(option string) net.Listener {
		l, err := Listen(option, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	f.layers = folder.New("", "", slog.New(slog.DiscardHandler))
	f.layers.Add(f.layer)
	web, blocks := listen("--http"), listen("--nbd")
	f.Server, err = New(Config{
		Store: s, Layers: f.layers, Default: "debian", Log: slog.New(slog.NewTextHandler(f.log, nil)),
		Site: labels(site.Label{Name: "debian", Overlay: site.DefaultOverlay(), Cmdline: []string{"label=debian"}}),
		Add:  site.Additions{TopLayer: layer.Digest(f.layer)},
	}, web, map[handoff.Transport]net.Listener{handoff.NBD: blocks})
	if err != nil {
		t.Fatal(err)
	}
	f.url, f.nbd = "http://"+web.Addr().String(), blocks.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return f
}

func (f *fixture) get(t *testing.T, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// Everything that a script names must be there, whole, under the name by which the machine reached
// us.
func TestScriptLeadsToBlobs(t *testing.T) {
	f := start(t)
	_, script := f.get(t, "/boot/debian.ipxe")
	want := map[string][]byte{"vmlinuz": random(2, 70000), "initramfs": random(3, 5000), "initramfs-hardware": random(4, 6000)}
	for line := range strings.Lines(string(script)) {
		words := strings.Fields(line)
		if words[0] != "kernel" && words[0] != "initrd" {
			continue
		}
		_, body := f.get(t, strings.TrimPrefix(words[3], f.url))
		if !bytes.Equal(body, want[words[2]]) {
			t.Errorf("%s: %d bytes of something else", words[2], len(body))
		}
		delete(want, words[2])
	}
	if len(want) != 0 {
		t.Errorf("not named in the script: %d files\n%s", len(want), script)
	}
	_, nbdPort, _ := net.SplitHostPort(f.nbd)
	for _, s := range []string{
		"root=nbd:127.0.0.1:" + nbdPort + "/" + f.image.Name() + ":squashfs", " rootovl ", " label=debian ",
		"netroot.layer=" + f.url + "/v1/layers/" + string(layer.Digest(f.layer)), "chain --replace " + f.url + "/boot/debian.ipxe",
	} {
		if !strings.Contains(string(script), s) {
			t.Errorf("no %q in\n%s", s, script)
		}
	}
	_, vm := f.get(t, "/boot/"+f.image.Name()+".ipxe?virtio=1", "Host", "10.0.2.2:8010")
	if s := string(vm); strings.Contains(s, "hardware") || !strings.Contains(s, "kernel --name vmlinuz http://10.0.2.2:8010/v1/") || !strings.Contains(s, "root=nbd:10.0.2.2:") {
		t.Errorf("for a virtual machine:\n%s", s)
	}
	if resp, body := f.get(t, "/v1/layers/"+string(layer.Digest(f.layer))); !bytes.Equal(body, f.layer) {
		t.Errorf("layer: %s, %d bytes", resp.Status, len(body))
	}
}

// An iPXE that has not said on what machine it runs is asked, and what it says then counts.
func TestMachineIsAsked(t *testing.T) {
	f := start(t)
	for path, want := range map[string]string{
		"/boot/debian.ipxe":                            "chain --replace " + f.url + "/boot/debian.ipxe?arch=${buildarch}&",
		"/boot/nothing.ipxe?virtio=1":                  "chain --replace " + f.url + "/boot/nothing.ipxe?virtio=1&arch=${buildarch}&",
		"/boot/debian.ipxe?arch=":                      "BOOTIF=01-${netX/mac:hexhyp}",
		"/boot/debian.ipxe?arch=i386&platform=pcbios":  "root=nbd:",
		"/boot/debian.ipxe?arch=arm64&platform=efi":    "is for amd64 and this machine is arm64",
		"/boot/debian.ipxe?arch=&mac=52:54:0:12:34:56": "BOOTIF=01-${netX/mac:hexhyp}",
		"/boot/debian.ipxe?arch=x86_64&platform=efi&mac=52:54:00:12:34:56&uuid=&serialhex=&assethex=": " BOOTIF=01-52-54-00-12-34-56 ",
	} {
		if resp, script := f.get(t, path, "User-Agent", "iPXE/1.21"); resp.StatusCode != 200 || !strings.Contains(string(script), want) {
			t.Errorf("%s: %s, no %q in\n%s", path, resp.Status, want, script)
		}
	}
}

func TestNewestAndVersion(t *testing.T) {
	f := start(t)
	old := f.image.Name()
	second := commit(t, f.store, "debian", map[store.Role][]byte{store.RoleKernel: []byte("k"), store.RoleInitramfs: []byte("i")})
	for ref, want := range map[string]string{"debian": second.Name(), old: old, second.ID(): second.Name()} {
		_, script := f.get(t, "/boot/"+ref+".ipxe")
		if !strings.Contains(string(script), "echo netroot: booting "+want+" ") {
			t.Errorf("%s: not %s:\n%s", ref, want, script)
		}
	}
}

func TestRefusals(t *testing.T) {
	f := start(t)
	manifest := f.image.Digest.String()
	for _, test := range []struct {
		path, agent string
		status      int
		want        string
	}{
		{"/boot/debain.ipxe", "curl/8", 404, "no such image: debain\n"},
		{"/boot/debain.ipxe?arch=x86_64", "iPXE/1.21", 200, "#!ipxe\n"},
		{"/boot/debian", "", 404, "LABEL.ipxe"},
		{"/boot/.ipxe", "", 404, "LABEL.ipxe"},
		{"/v1/blobs/sha256:" + strings.Repeat("0", 64), "", 404, "blob"},
		{"/v1/blobs/" + manifest, "", 404, "blob"}, // in the store, but no part of an image
		{"/v1/blobs/..%2f..%2findex.json", "", 404, "blob"},
		{"/v1/blobs/../../index.json", "", 404, ""},
		{"/v1/layers/" + manifest, "", 404, "layer"},
		{"/", "", 404, ""},
	} {
		resp, body := f.get(t, test.path, "User-Agent", test.agent)
		if resp.StatusCode != test.status || !strings.Contains(string(body), test.want) {
			t.Errorf("%s %s: %s\n%s", test.agent, test.path, resp.Status, body)
		}
		if s := string(body); strings.Contains(s, f.store.Dir()) || strings.Contains(s, `"debian"`) || strings.Contains(s, f.image.ID()) {
			t.Errorf("%s %s: a stranger learns of paths or images:\n%s", test.agent, test.path, s)
		}
	}
	_, script := f.get(t, "/boot/debain.ipxe?arch=x86_64", "User-Agent", "iPXE/1.21")
	if s := string(script); !strings.Contains(s, "no such image: debain") || !strings.Contains(s, "chain --replace "+f.url+"/boot/debain.ipxe?refused=1&arch=") {
		t.Errorf("refusal:\n%s", s)
	}
	_, script = f.get(t, "/boot/debain.ipxe?refused=7&arch=x86_64", "User-Agent", "iPXE/1.21")
	var pause int
	_, after, _ := strings.Cut(string(script), "\nsleep ")
	if n, err := fmt.Sscanf(after, "%d ||", &pause); n != 1 || pause < 45 || pause > 75 || !strings.Contains(string(script), "?refused=8&arch=") {
		t.Errorf("the eighth refusal: pause %d, %v\n%s", pause, err, script)
	}
	resp, err := http.Post(f.url+"/boot/debian.ipxe", "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
}

func TestRangesAndHeaders(t *testing.T) {
	f := start(t)
	digest := ""
	for _, l := range f.image.Manifest.Layers {
		if l.Annotations[store.AnnotationRole] == string(store.RoleRoot) {
			digest = l.Digest.String()
		}
	}
	path := "/v1/blobs/" + digest
	resp, body := f.get(t, path, "Range", "bytes=1000000-1999999")
	if resp.StatusCode != 206 || !bytes.Equal(body, f.root[1000000:2000000]) {
		t.Errorf("range: %s, %d bytes", resp.Status, len(body))
	}
	if got := resp.Header.Get("Cache-Control"); !strings.Contains(got, "immutable") {
		t.Errorf("Cache-Control: %q", got)
	}
	if resp, body = f.get(t, path, "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != 304 || len(body) != 0 {
		t.Errorf("ETag: %s, %d bytes", resp.Status, len(body))
	}
	if resp, _ = f.get(t, path, "Range", "bytes=99999999-"); resp.StatusCode != 416 {
		t.Errorf("range after the end: %s", resp.Status)
	}
	head, err := http.Head(f.url + path)
	if err != nil || head.ContentLength != int64(len(f.root)) {
		t.Errorf("HEAD: %+v, %v", head, err)
	}
	head.Body.Close()

	curl := tool(t, "curl")
	out := filepath.Join(t.TempDir(), "out")
	os.WriteFile(out, f.root[:12345], 0o644)
	if msg, err := exec.Command(curl, "-sS", "-f", "-C", "-", "-o", out, f.url+path).CombinedOutput(); err != nil {
		t.Fatalf("curl: %v %s", err, msg)
	}
	if got, _ := os.ReadFile(out); !bytes.Equal(got, f.root) {
		t.Errorf("curl -C -: %d bytes of something else", len(got))
	}
	waitLog(t, f.log, "status=206", "bytes="+"3133383")
}

// waitLog waits for one line that has all words: it is written after the client has its answer.
func waitLog(t *testing.T, log *testlog.Buffer, words ...string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(5 * time.Second)
	for {
	lines:
		for line := range strings.Lines(log.String()) {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue lines
				}
			}
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("no line with %q in\n%s", words, log)
		}
	}
}

func TestNBD(t *testing.T) {
	nbdcopy, nbdinfo := tool(t, "nbdcopy"), tool(t, "nbdinfo")
	f := start(t)
	for _, export := range []string{"", "debian", f.image.Name()} {
		out := filepath.Join(t.TempDir(), "root")
		if msg, err := exec.Command(nbdcopy, "nbd://"+f.nbd+"/"+export, out).CombinedOutput(); err != nil {
			t.Errorf("nbdcopy %q: %v\n%s", export, err, msg)
			continue
		}
		if got, _ := os.ReadFile(out); !bytes.Equal(got, f.root) {
			t.Errorf("nbdcopy %q: %d bytes of something else", export, len(got))
		}
	}
	list, err := exec.Command(nbdinfo, "--list", "nbd://"+f.nbd).CombinedOutput()
	if err != nil || !strings.Contains(string(list), "/debian\n") || !strings.Contains(string(list), f.image.Name()) || !strings.Contains(string(list), "Test Linux") {
		t.Errorf("nbdinfo --list: %v\n%s", err, list)
	}
	msg, err := exec.Command(nbdinfo, "nbd://"+f.nbd+"/debain").CombinedOutput()
	if err == nil || !strings.Contains(string(msg), "debain") {
		t.Errorf("unknown export: %v\n%s", err, msg)
	}
}

// Under TLS alone NBD is nothing to send a node to.
func TestNoNodeSpeaksTLS(t *testing.T) {
	f := start(t)
	l, err := Listen("--nbd", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for transport, want := range map[handoff.Transport]string{"": "none of the transports that are served", handoff.NBD: "requires TLS (--tls-require)"} {
		s, err := New(Config{
			Store: f.store, RequireTLS: true, Site: labels(site.Label{Name: "debian", Transport: transport}),
		}, nil, map[handoff.Transport]net.Listener{handoff.NBD: l})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Plan(boot.Machine{Server: "10.0.0.1", Ref: "debian"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("transport %q: %v", transport, err)
		}
	}
}

// All clients of an image share one file, and the last closes it.
func TestOneFileForAllClients(t *testing.T) {
	f := start(t)
	one, err := f.nbdExport(t.Context(), "debian")
	if err != nil {
		t.Fatal(err)
	}
	two, err := f.nbdExport(t.Context(), f.image.Name())
	if err != nil {
		t.Fatal(err)
	}
	if one.Name != f.image.Name() || one.Backend != two.Backend {
		t.Errorf("%+v and %+v", one, two)
	}
	p := make([]byte, 10)
	one.Release()
	one.Release() // of no effect
	if _, err := two.Backend.ReadAt(p, 5); err != nil || !bytes.Equal(p, f.root[5:15]) {
		t.Errorf("after the first has left: %v", err)
	}
	two.Release()
	if _, err := two.Backend.ReadAt(p, 5); err == nil {
		t.Error("the file is open after the last has left")
	}
	if len(f.catalog.open) != 0 {
		t.Errorf("still open: %v", f.catalog.open)
	}
}

// TestTooManyConnections: one too many is told so, and one that has left makes room.
func TestTooManyConnections(t *testing.T) {
	log := new(testlog.Buffer)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	refusals := accept.NewRefusals(slog.New(slog.NewTextHandler(log, nil)), "http")
	server.Config.ConnState = newConnections(2, func(peer string, why error) {
		refusals.Log(slog.LevelWarn, "http: refused", "peer", peer, "why", why)
	}).state
	server.Start()
	t.Cleanup(server.Close)
	ask := func() (net.Conn, int) {
		t.Helper()
		nc, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			return nc, 0 // reset, with the answer still on its way
		}
		return nc, resp.StatusCode
	}
	first, status := ask()
	if _, second := ask(); status != http.StatusOK || second != http.StatusOK {
		t.Fatalf("status %d and %d", status, second)
	}
	if _, status := ask(); status == http.StatusOK {
		t.Error("a third was served")
	}
	waitLog(t, log, "http: refused", `why="more than 2 connections"`)
	first.Close()
	for begin := time.Now(); ; {
		if _, status := ask(); status == http.StatusOK {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("no room after one has left")
		}
	}
}

func TestListenErrors(t *testing.T) {
	l, err := Listen("--nbd", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for addr, want := range map[string]string{
		l.Addr().String(): l.Addr().String() + " is in use; choose another with --nbd",
		"192.0.2.1:0":     "192.0.2.1:0 is not an address of this machine; choose another with --nbd",
		"nonsense":        "--nbd: ",
	} {
		if l, err := Listen("--nbd", addr); err == nil {
			l.Close()
			t.Errorf("%s: no error", addr)
		} else if !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func tool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return p
}

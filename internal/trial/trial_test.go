package trial

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/internal/boot"
	"netroot/internal/foreign"
	"netroot/internal/gate"
	"netroot/internal/handoff"
	"netroot/internal/layer/folder"
	"netroot/internal/publish"
	"netroot/internal/serve"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/vm"
)

// TestMain also is the keeper of the servers that tests start, and an NVMe host.
func TestMain(m *testing.M) {
	foreign.Main()
	if where := os.Getenv("TRIAL_TEST_NVME"); where != "" {
		os.Exit(nvmeClient(where))
	}
	os.Exit(m.Run())
}

func options(t *testing.T, l site.Label) Options {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Create(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	var parts []store.Part
	for _, role := range []store.Role{store.RoleRoot, store.RoleKernel, store.RoleInitramfs} {
		file := filepath.Join(dir, string(role))
		if err := os.WriteFile(file, append([]byte(role), make([]byte, 1<<20)...), 0o644); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, store.Part{Role: role, Path: file})
	}
	im, err := s.Commit(t.Context(), "tiny", store.Config{RootFormat: "squashfs", Transports: handoff.Transports()}, parts)
	if err != nil {
		t.Fatal(err)
	}
	cfg := site.Empty()
	cfg.SetState(dir)
	l.Name = "tiny"
	cfg.Labels["tiny"] = &l
	key, err := vm.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	o := Options{
		Site: cfg, Store: s, Image: im, Key: key, Log: log, Layers: folder.New("", "", log),
		NFSKey: func() ([32]byte, error) { return [32]byte{1}, nil }, Say: func(string) {},
	}
	o.Request = site.Request{Image: serve.Facts(im), Label: "tiny", Layers: o.Layers}
	return o
}

// start starts the servers, and returns the script that the machine will get.
func start(t *testing.T, o Options) (string, error) {
	t.Helper()
	s, err := Start(t.Context(), o)
	if err != nil {
		return "", err
	}
	t.Cleanup(s.Close)
	done := make(chan error, 1)
	go func() { done <- s.Run(t.Context()) }()
	t.Cleanup(func() { <-done })
	s.Admit(func(inode uint64) bool { return gate.Has(os.Getpid(), inode) })
	resp, err := http.Get(strings.Replace(s.Script, vm.GuestHost, "127.0.0.1", 1))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(text))
	}
	http.DefaultClient.CloseIdleConnections()
	return string(text), err
}

func TestOwnServers(t *testing.T) {
	o := options(t, site.Label{Overlay: site.DefaultOverlay(), Cmdline: []string{"quiet"}})
	o.Request.Add.Console = []string{"ttyS0"}
	script, err := start(t, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"root=nvme", " rootovl ", " console=ttyS0 quiet", "/v1/layers/" + layerOf(t, o.Key.Layer)} {
		if !strings.Contains(script, want) {
			t.Errorf("no %q in\n%s", want, script)
		}
	}
}

// A root without an overlay gets the key in memory.
func TestKeyWithoutOverlay(t *testing.T) {
	o := options(t, site.Label{})
	script, err := start(t, o)
	if err != nil || !strings.Contains(script, "/v1/layers/"+layerOf(t, o.Key.RunLayer)) {
		t.Errorf("%v\n%s", err, script)
	}
}

func layerOf(t *testing.T, archive func() ([]byte, error)) string {
	t.Helper()
	b, err := archive()
	if err != nil {
		t.Fatal(err)
	}
	return string(handoff.DigestOf(b))
}

func TestOtherServer(t *testing.T) {
	o := options(t, site.Label{Transport: handoff.NBD})
	o.Server = "127.0.0.1:10810"
	script, err := start(t, o)
	if err != nil || !strings.Contains(script, "root=nbd:127.0.0.1:10810/") {
		t.Errorf("%v\n%s", err, script)
	}
}

func TestRefusals(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"expected HOST:PORT":                     func(o *Options) { o.Server = "127.0.0.1" },
		"reaches only the loopback":              func(o *Options) { o.Server = "10.0.0.1:80" },
		"a root over HTTP comes":                 func(o *Options) { o.Server, o.Request.Add.Transport = "127.0.0.1:80", handoff.HTTP },
		"requires --transport nbd, iscsi or nfs": func(o *Options) { o.Server, o.Request.Add.Transport = KernelServer, handoff.NVMe },
		"which no machine can write to":          func(o *Options) { o.Server, o.Request.Add.RW = KernelServer, true },
	} {
		o := options(t, site.Label{Overlay: site.DefaultOverlay()})
		change(&o)
		_, err := start(t, o)
		if wrong := (*publish.OptionError)(nil); !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	o := options(t, site.Label{Layers: []string{"x"}})
	if _, err := start(t, o); !errors.Is(err, site.ErrNoOverlay) {
		t.Error(err)
	}
}

func TestForeignTransport(t *testing.T) {
	im := options(t, site.Label{}).Image
	for want, set := range map[handoff.Transport]boot.Settings{
		handoff.NBD: {}, handoff.NFS: {RW: true}, handoff.HTTP: {Transport: handoff.HTTP},
	} {
		if got := foreignTransport(im, set); got != want {
			t.Errorf("%+v: %s, not %s", set, got, want)
		}
	}
	im.Config.Transports = []handoff.Transport{handoff.ISCSI}
	if got := foreignTransport(im, boot.Settings{}); got != handoff.ISCSI {
		t.Error(got)
	}
}

func TestLog(t *testing.T) {
	s := site.Empty()
	s.SetState(t.TempDir())
	for range 2 { // a new file in the place of one that others may have open
		file, err := Log(s, "tiny")
		if err != nil || file != filepath.Join(s.Logs(), "vm-tiny.log") {
			t.Fatalf("%s, %v", file, err)
		}
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 || st.Size() > 0 {
			t.Errorf("%v, %v", st, err)
		}
		if err := os.WriteFile(file, []byte("x"), 0o644); err != nil || os.Chmod(file, 0o644) != nil {
			t.Error(err)
		}
	}
	s.SetState("/dev/null")
	file, err := Log(s, "tiny")
	if err != nil || !strings.HasSuffix(file, "-vm-tiny.log") {
		t.Fatalf("%s, %v", file, err)
	}
	if err := os.Remove(file); err != nil {
		t.Error(err)
	}
}

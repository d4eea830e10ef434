package serve

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/testlog"
)

// TestUsedImagesStay: gc leaves alone what a client has open and what a machine was told to boot.
func TestUsedImagesStay(t *testing.T) {
	f := start(t)
	second := commit(t, f.store, "debian", map[store.Role][]byte{store.RoleRoot: random(7, 9000), store.RoleKernel: []byte("k"), store.RoleInitramfs: []byte("i")})
	third := commit(t, f.store, "debian", map[store.Role][]byte{store.RoleRoot: random(8, 9000), store.RoleKernel: []byte("k"), store.RoleInitramfs: []byte("i")})
	export, err := f.nbdExport(t.Context(), f.image.Name())
	if err != nil {
		t.Fatal(err)
	}
	kept := func(limits store.Limits, name, why string) {
		t.Helper()
		r, err := f.store.GC(t.Context(), limits)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range r.Kept {
			if k.Name == name && strings.Contains(k.Why, why) {
				return
			}
		}
		t.Errorf("%s was not kept because %q: %+v", name, why, r)
	}
	if _, err := f.Plan(boot.Machine{Server: "192.0.2.1:80", Ref: second.Name()}); err != nil {
		t.Fatal(err)
	}
	kept(store.Limits{Grace: store.DefaultGrace}, second.Name(), "a machine was given it")
	kept(store.Limits{}, f.image.Name(), "machines run from it") // and the second one goes
	if _, err := f.nbdExport(t.Context(), second.Name()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a removed image: %v", err)
	}
	export.Release()
	if r, err := f.store.GC(t.Context(), store.Limits{}); err != nil || len(r.Versions) != 1 || r.Versions[0].Digest != f.image.Digest {
		t.Errorf("after the last client has left: %+v, %v", r, err)
	}
	if resp, _ := f.get(t, boot.BlobPath+digest.FromBytes(f.root).String()); resp.StatusCode != 404 {
		t.Errorf("a blob of a removed image: %s", resp.Status)
	}
	if _, script := f.get(t, "/boot/debian.ipxe"); !strings.Contains(string(script), third.Name()) {
		t.Errorf("not %s:\n%s", third.Name(), script)
	}
}

// TestServerBeforeTheFirstBuild: a server over a store that is not there yet serves it when it is.
func TestServerBeforeTheFirstBuild(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	log := new(testlog.Buffer)
	s, err := New(Config{
		Store: store.At(dir), Site: site.Empty(), Ports: boot.Ports{handoff.NBD: 10809}, Log: slog.New(slog.NewTextHandler(log, nil)),
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Plan(boot.Machine{Server: "192.0.2.1:80", Ref: "debian"}); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "no image has been built yet") {
		t.Error(err)
	}
	made, err := store.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	im := commit(t, made, "debian", map[store.Role][]byte{store.RoleRoot: random(1, 5000), store.RoleKernel: []byte("k"), store.RoleInitramfs: []byte("i")})
	plan, err := s.Plan(boot.Machine{Server: "192.0.2.1:80", Ref: "debian"})
	if err != nil || !strings.Contains(plan.IPXE(), im.Name()) {
		t.Errorf("%v, %v", plan, err)
	}
	if log.String() != "" {
		t.Error(log)
	}
}

package serve

import (
	"errors"
	"os"
	"strings"
	"testing"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/proto/iscsi"
	"netroot/internal/proto/nbd"
	"netroot/internal/proto/nvmetcp"
	"netroot/internal/store"
)

// bootable is an image that boots, whose parts have the seed in them.
func bootable(t *testing.T, f *fixture, seed byte) *store.Image {
	t.Helper()
	return commit(t, f.store, "debian", map[store.Role][]byte{
		store.RoleRoot: random(seed, 1<<20), store.RoleKernel: random(seed+1, 70000), store.RoleInitramfs: random(seed+2, 5000),
	})
}

// flip flips a bit of a part, as a program does that writes to the file.
func flip(t *testing.T, im *store.Image, role store.Role) (file string) {
	t.Helper()
	b, ok, err := im.Blob(role)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer b.Close()
	bytes, err := os.ReadFile(b.Path())
	if err != nil {
		t.Fatal(err)
	}
	bytes[len(bytes)/2] ^= 0x10
	for before := store.StateOf(b.Path()); store.StateOf(b.Path()) == before; { // until the clock has gone on
		if err := os.WriteFile(b.Path(), bytes, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b.Path()
}

func (f *fixture) plan(ref string) error {
	_, err := f.Plan(boot.Machine{Server: "10.0.0.1", Ref: ref})
	return err
}

// TestOneBit: a bit of a part is flipped while the server runs. Whatever the protocol, the version
// is not given out any more, and the others are.
func TestOneBit(t *testing.T) {
	for _, role := range []store.Role{store.RoleRoot, store.RoleKernel, store.RoleInitramfs} {
		t.Run(string(role), func(t *testing.T) {
			f := start(t)
			bad, worse := bootable(t, f, 20), bootable(t, f, 30)
			for _, im := range []*store.Image{f.image, bad, worse} {
				if err := f.plan(im.Name()); err != nil {
					t.Fatal(err)
				}
			}
			flip(t, worse, role)
			file := flip(t, bad, role)
			for range 2 {
				err := f.plan(bad.Name())
				want := file + " is damaged: its bytes do not have its digest"
				if err == nil || !errors.As(err, new(private)) || !strings.Contains(err.Error(), want) || !strings.HasSuffix(err.Error(), "other versions can be booted: "+f.image.Name()) {
					t.Fatalf("plan: %v", err)
				}
			}
			if _, _, err := f.Preview(boot.Machine{Server: "10.0.0.1", Ref: bad.Name()}); err == nil {
				t.Error("preview")
			}
			if err := f.plan(f.image.Name()); err != nil {
				t.Errorf("a whole version: %v", err)
			}
			b, _, err := bad.Blob(role)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if resp, body := f.get(t, boot.BlobPath+b.Digest.String()); resp.StatusCode != 500 || strings.Contains(string(body), file) {
				t.Errorf("HTTP: %s %.80q", resp.Status, body)
			}
			unknown := map[handoff.Transport]error{handoff.NBD: nbd.ErrUnknown, handoff.NVMe: nvmetcp.ErrUnknown, handoff.ISCSI: iscsi.ErrUnknown}
			for transport, err := range f.lookUp(t, bad) {
				if attached := role != store.RoleRoot; attached != (err == nil) || errors.Is(err, unknown[transport]) {
					t.Errorf("%s: %v", transport, err)
				}
			}
			waitLog(t, f.log, `level=ERROR msg="image damaged: not given out"`, "image="+bad.Name(), file)
			if p := strings.Join(f.Problems(), "\n"); !strings.Contains(p, bad.Name()) || !strings.Contains(p, worse.Name()) {
				t.Errorf("problems:\n%s", p)
			}
			flip(t, bad, role)
			flip(t, worse, role)
			if err := errors.Join(f.plan(bad.Name()), f.plan(worse.Name())); err != nil || len(f.Problems()) > 0 {
				t.Errorf("mended: %v, %v", err, f.Problems())
			}
		})
	}
}

// TestDamageThatNobodyHasSeen: a part that seems unchanged since the commit is given out, until it
// has been read.
func TestDamageThatNobodyHasSeen(t *testing.T) {
	f := start(t)
	im := bootable(t, f, 40)
	file := flip(t, im, store.RoleRoot) // within the time that a commit may take
	if err := f.plan(im.Name()); err != nil {
		t.Fatal(err)
	}
	waitLog(t, f.log, `msg="image damaged: not given out"`, file)
	if err := f.plan(im.Name()); err == nil {
		t.Error("given out when it had been read")
	}
}

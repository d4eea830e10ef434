package serve

import (
	"errors"
	"io"
	"net/http"
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

// rootFile is where the packed root of an image lies, and its path on the HTTP server.
func rootFile(t *testing.T, im *store.Image) (file, path string) {
	t.Helper()
	b, ok, err := im.Blob(store.RoleRoot)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer b.Close()
	return b.Path(), boot.BlobPath + b.Digest.String()
}

// lookUp asks for the root of an image as a client of each protocol does.
func (f *fixture) lookUp(t *testing.T, im *store.Image) map[handoff.Transport]error {
	_, nbdErr := f.nbdExport(t.Context(), im.Name())
	_, nvmeErr := f.subsystem(t.Context(), boot.NQN(im.Name()))
	_, iscsiErr := f.target(t.Context(), boot.IQN(im.Name()))
	return map[handoff.Transport]error{handoff.NBD: nbdErr, handoff.NVMe: nvmeErr, handoff.ISCSI: iscsiErr}
}

// TestUnknownNames: what is not here is that to each protocol, which then tells its client so.
func TestUnknownNames(t *testing.T) {
	f := start(t)
	unknown := map[handoff.Transport]error{handoff.NBD: nbd.ErrUnknown, handoff.NVMe: nvmetcp.ErrUnknown, handoff.ISCSI: iscsi.ErrUnknown}
	none := commit(t, f.store, "rootless", map[store.Role][]byte{store.RoleKernel: []byte("k"), store.RoleInitramfs: []byte("i")})
	for transport, err := range f.lookUp(t, none) {
		if !errors.Is(err, unknown[transport]) || !strings.Contains(err.Error(), "rootless@") || !strings.Contains(err.Error(), "has no packed root") {
			t.Errorf("%s: %v", transport, err)
		}
	}
	for _, name := range []string{"nqn.2014-08.org.example:x", boot.NQN("debian@000000000000"), ""} {
		if _, err := f.subsystem(t.Context(), name); !errors.Is(err, nvmetcp.ErrUnknown) {
			t.Errorf("NQN %q: %v", name, err)
		}
		if _, err := f.target(t.Context(), strings.Replace(name, "nqn", "iqn", 1)); !errors.Is(err, iscsi.ErrUnknown) {
			t.Errorf("IQN of %q: %v", name, err)
		}
	}
}

// TestDamagedRoot: a root that is shorter than it should be, or gone, is no unknown name: the
// client is told that the server has an error, and the log which file it is.
func TestDamagedRoot(t *testing.T) {
	f := start(t)
	file, path := rootFile(t, f.image)
	export, err := f.nbdExport(t.Context(), "debian")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 1<<20); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if n, err := export.Backend.ReadAt(p, 2<<20); n != 0 || err == nil {
		t.Errorf("who had it open reads %d bytes, %v", n, err)
	}
	if n, err := export.Backend.ReadAt(p, 0); n != len(p) || err != nil {
		t.Errorf("what is there still: %d bytes, %v", n, err)
	}
	export.Release()

	damaged := file + " is damaged: it has 1048576 bytes and should have 3145728: build the image again"
	for _, test := range []struct {
		why    string
		status int
	}{{damaged, 500}, {"open " + file + ": no such file or directory", 404}} {
		for transport, err := range f.lookUp(t, f.image) {
			if err == nil || !strings.Contains(err.Error(), test.why) || errors.Is(err, nbd.ErrUnknown) || errors.Is(err, nvmetcp.ErrUnknown) || errors.Is(err, iscsi.ErrUnknown) {
				t.Errorf("%s: %v", transport, err)
			}
		}
		if resp, body := f.get(t, path); resp.StatusCode != test.status || strings.Contains(string(body), file) {
			t.Errorf("HTTP: %s %s", resp.Status, body)
		}
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
	}
	waitLog(t, f.log, "level=ERROR msg=http", "status=500", `why="image debian@`, damaged)
	waitLog(t, f.log, "level=WARN msg=http", "status=404", `no such file or directory"`)
}

// TestRootCutWhileSent: a client whose file became shorter meanwhile does not take it for whole.
func TestRootCutWhileSent(t *testing.T) {
	f := start(t)
	const size = 24 << 20 // more than the kernel takes in advance
	im := commit(t, f.store, "large", map[store.Role][]byte{store.RoleRoot: random(9, size)})
	file, path := rootFile(t, im)
	resp, err := http.Get(f.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := os.Truncate(file, 4096); err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if resp.ContentLength != size || n >= size || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes of %d, %v", n, resp.ContentLength, err)
	}
	waitLog(t, f.log, "level=WARN msg=http", "status=200", `why="25165824 bytes were promised and no more are there"`)
}

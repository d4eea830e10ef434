package nfs3

import (
	"os"
	"testing"
)

// No file has an ACL, as far as a client is told: without that answer an overlay refuses files to
// all but their owners.
func TestNoACLs(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := serveDir(t, dir, Export{ReadOnly: true})
	c := h.dial(t)
	root := c.mount("/root")
	_, file, _ := c.lookup(root, "file")
	for _, handle := range [][]byte{root, file} {
		a := c.call(programACL, nfsVersion, procGetACL, appendU32(appendOpaque(nil, handle), 0xff))
		if s := status(a.u32()); s != statusOK || a.post() == nil || a.u32() != aclMask {
			t.Errorf("GETACL: %d", s)
		}
		for range 4 {
			if n := a.u32(); n != 0 {
				t.Errorf("%d entries", n)
			}
		}
		c.ended(a, "GETACL")
		a = c.call(programACL, nfsVersion, procSetACL, appendU32(appendOpaque(nil, handle), 0))
		if s := status(a.u32()); s != statusNotSupp || a.u32() != 0 {
			t.Errorf("SETACL: %d", s)
		}
		c.ended(a, "SETACL")
	}
	a := c.call(programACL, nfsVersion, procGetACL, appendU32(appendOpaque(nil, []byte("no handle")), 1))
	if s := status(a.u32()); s != statusBadHandle {
		t.Errorf("GETACL of no handle: %d", s)
	}
}

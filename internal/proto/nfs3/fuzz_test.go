package nfs3

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"netroot/internal/proto/accept"
	"netroot/internal/prototest"
)

// exposed is a server of a small directory with one file, as root; without root it has no export to
// give.
func exposed(f *testing.F, key [32]byte) (h *host, dir, file []byte) {
	h = newHost()
	h.Key = key
	h.once.Do(h.setup)
	if os.Geteuid() != 0 {
		return h, make([]byte, 30), make([]byte, 30)
	}
	top := f.TempDir()
	write(f, filepath.Join(top, "file"), []byte("data"), 0o644)
	h.export("root", top, Export{Clients: everywhere, TrustRoot: true})
	handle := func(name string) []byte {
		fd, err := unix.Open(filepath.Join(top, name), unix.O_PATH, 0)
		must(f, err)
		defer unix.Close(fd)
		fh, err := kernelHandle(fd)
		must(f, err)
		return h.seals.make(IDOf("root"), fh)
	}
	return h, handle("."), handle("file")
}

// hear gives a server bytes from a connection that then ends, and checks that nothing is left
// behind.
func hear(t *testing.T, h *host, data []byte) *prototest.Feed {
	conn := &prototest.Feed{R: bytes.NewReader(data)}
	h.loop.ServeConn(t.Context(), conn)
	if h.held != 0 {
		t.Errorf("%d exports not released", h.held)
	}
	if n := h.Counters().Memory; n != 0 {
		t.Fatalf("%d bytes of memory are not given back", n)
	}
	if n := len(h.trees) + len(h.active); n != 0 {
		t.Errorf("%d trees and attachments left", n)
	}
	return conn
}

// FuzzServer feeds a server arbitrary bytes: it must return, with every export released, every byte
// of memory given back, and no more said than the requests can ask for.
func FuzzServer(f *testing.F) {
	h, dir, file := exposed(f, [32]byte{}) // each process of a fuzzing run takes the others' handles
	c := &client{t: f, uid: 1, gid: 2, gids: []uint32{3, 4}}
	all := []byte{}
	for k, body := range arguments(dir, file) {
		r := c.request(k[0], 3, k[1], body)
		f.Add(r)
		all = append(all, r...)
	}
	f.Add(all)
	f.Add(append(appendU32(nil, 4), all...))
	f.Add(words(7, msgCall, 3))
	f.Add([]byte{0x80, 0, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		conn := hear(t, h, data)
		if most := len(data)/40*(maxDir+maxRecord) + 100; conn.Written > most {
			t.Errorf("%d bytes said to %d", conn.Written, len(data))
		}
	})
}

// FuzzArguments calls each procedure with arbitrary arguments behind a good handle, and after one.
func FuzzArguments(f *testing.F) {
	h, dir, file := exposed(f, [32]byte{})
	for k, body := range arguments(dir, file) {
		f.Add(k[0] == programMount, uint8(k[1]), true, body)
		if n := recordMark + len(dir); len(body) > n {
			f.Add(k[0] == programMount, uint8(k[1]), false, body[n:])
		}
	}
	f.Fuzz(func(t *testing.T, mount bool, proc uint8, whole bool, body []byte) {
		prog, n := uint32(programNFS), uint32(len(nfsProcedures))
		if mount {
			prog, n = programMount, uint32(len(mountProcedures))
		}
		c := &client{t: t}
		var data []byte
		for _, h := range [][]byte{dir, file} {
			b := body
			if !whole {
				b = append(appendOpaque(nil, h), body...)
			}
			if len(b) > maxRecord/2 {
				return
			}
			data = append(data, c.request(prog, 3, uint32(proc)%n, b)...)
		}
		if conn := hear(t, h, data); conn.Written == 0 {
			t.Error("no answer")
		}
	})
}

// FuzzHandle gives handles of arbitrary bytes: none but those that were given out opens anything.
func FuzzHandle(f *testing.F) {
	var key [32]byte
	rand.Read(key[:])
	h, dir, file := exposed(f, key)
	f.Add(dir)
	f.Add(file)
	f.Add(append(bytes.Clone(file[:handleType]), dir[handleType:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		h.loop.Serve = func(ctx context.Context, nc *accept.Conn) {
			c := &conn{Conn: nc, srv: h.Server, ctx: ctx}
			defer c.detach("")
			target, err := c.target(&call{who: h.creds.get(0, 0, nil)}, b)
			if err != nil {
				return
			}
			target.done()
			if !bytes.Equal(b, dir) && !bytes.Equal(b, file) {
				t.Errorf("%x opened something", b)
			}
		}
		h.loop.ServeConn(t.Context(), &prototest.Feed{R: bytes.NewReader(nil)})
	})
}

package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/url"
	"path"
)

// nfsWire reads one file by NFSv3, as root.
type nfsWire struct{ handle []byte }

// Numbers of RFC 5531 and RFC 1813.
const (
	programNFS   = 100003
	programMount = 100005
	procMount    = 1
	procLookup   = 3
	procRead     = 6
	lastFragment = 1 << 31
	replyHead    = 32 // bytes of an accepted reply, with the record mark and the status after it
)

// NFS mounts the directory of the file that a URL of libnfs names, and looks the file up.
func NFS(ctx context.Context, where string, size int64) (*Conn, error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, err
	}
	nc, err := Dial(ctx, u.Hostname()+":"+u.Query().Get("nfsport"))
	if err != nil {
		return nil, err
	}
	w := &nfsWire{}
	c := newConn(nc, w, size)
	dir, file := path.Split(u.Path)
	if w.handle, err = c.handleOf(programMount, procMount, xdrBytes(nil, path.Clean(dir))); err == nil {
		w.handle, err = c.handleOf(programNFS, procLookup, xdrBytes(xdrBytes(nil, string(w.handle)), file))
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return c, nil
}

func xdrBytes(b []byte, v string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	b = append(b, v...)
	return append(b, make([]byte, -len(v)&3)...)
}

// call appends the record of a call to c.w.
func (c *Conn) call(prog, proc uint32, args []byte) error {
	be := binary.BigEndian
	const head = 4 * (6 + 2 + 5 + 2) // of the call, with AUTH_SYS of root and no verifier
	b := be.AppendUint32(c.w.AvailableBuffer(), lastFragment|uint32(head+len(args)))
	for _, v := range []uint32{1, 0, 2, prog, 3, proc, 1, 20, 0, 0, 0, 0, 0, 0, 0} {
		b = be.AppendUint32(b, v)
	}
	if _, err := c.w.Write(b); err != nil {
		return err
	}
	_, err := c.w.Write(args)
	return err
}

// reply reads the head of a reply, and returns how many bytes of it follow.
func (c *Conn) reply() (int, error) {
	b, err := c.r.Peek(replyHead)
	if err != nil {
		return 0, err
	}
	size := int(binary.BigEndian.Uint32(b)&^lastFragment) + 4
	if status := binary.BigEndian.Uint32(b[28:]); size < replyHead || status != 0 {
		return 0, fmt.Errorf("RPC: reply of %d bytes, status %d", size, status)
	}
	c.r.Discard(replyHead)
	return size - replyHead, nil
}

// handleOf makes a call whose result begins with a handle.
func (c *Conn) handleOf(prog, proc uint32, args []byte) ([]byte, error) {
	if err := c.call(prog, proc, args); err != nil {
		return nil, err
	}
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	n, err := c.reply()
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return nil, err
	}
	if n < 4 || int(binary.BigEndian.Uint32(b)) > n-4 {
		return nil, fmt.Errorf("RPC: a result of %d bytes without a handle", n)
	}
	return b[4 : 4+binary.BigEndian.Uint32(b)], nil
}

func (w *nfsWire) ask(c *Conn, off int64, n int) error {
	args := binary.BigEndian.AppendUint64(xdrBytes(nil, string(w.handle)), uint64(off))
	return c.call(programNFS, procRead, binary.BigEndian.AppendUint32(args, uint32(n)))
}

func (w *nfsWire) answer(c *Conn, n int) error {
	got, err := c.reply()
	if err != nil {
		return err
	}
	if got < n {
		return fmt.Errorf("NFS: %d bytes of %d", got, n)
	}
	c.r.Discard(got - n) // attributes, and the length of the data
	return c.skip(n)
}

package oracle

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/mount"
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"

	"netroot/internal/proto/nfs3"
)

// These tests compare our server with code that github.com/buildbarn/go-xdr compiles from the text
// of RFC 1813 and RFC 5531. Our server must refuse the calls that this code cannot decode, accept
// those that it can, and answer in bytes that it decodes and encodes to the same bytes.

const (
	programNFS   = 100003
	programMount = 100005
	lastFragment = 1 << 31
)

// wire is a listener of pipes whose address is like a client's.
type wire struct {
	next   chan net.Conn
	closed chan struct{}
}

type end struct{ net.Conn }

func (end) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IP{127, 0, 0, 1}, Port: 700} }

func (w *wire) Accept() (net.Conn, error) {
	select {
	case nc := <-w.next:
		return nc, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	return nil
}

func (w *wire) Addr() net.Addr { return &net.TCPAddr{} }

// bench is a server of a small tree. Without root it exports nothing, and every handle is stale,
// but arguments are still decoded.
type bench struct {
	*wire
	dir, file, link []byte // handles
}

func start(t testing.TB) *bench {
	tree := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(tree, "file"), []byte("some text"), 0o644),
		os.Symlink("file", filepath.Join(tree, "link"))); err != nil {
		t.Fatal(err)
	}
	open := func() (*nfs3.Export, error) {
		dir, err := os.Open(tree)
		if err != nil {
			return nil, err
		}
		return &nfs3.Export{
			Name: "root", ID: nfs3.IDOf("root"), Dir: dir, TrustRoot: true,
			Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Release: func() { dir.Close() },
		}, nil
	}
	s := &nfs3.Server{
		Lookup: func(context.Context, string, netip.AddrPort) (*nfs3.Export, string, error) {
			e, err := open()
			return e, "", err
		},
		Find: func(context.Context, nfs3.ID, netip.AddrPort) (*nfs3.Export, error) { return open() },
		List: func(context.Context) ([]nfs3.Listed, error) {
			return []nfs3.Listed{{Path: "/root", Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, {Path: "/"}}, nil
		},
	}
	b := &bench{wire: &wire{make(chan net.Conn), make(chan struct{})}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, b.wire) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	b.dir, b.file, b.link = make([]byte, 30), make([]byte, 30), make([]byte, 30)
	if os.Geteuid() == 0 {
		b.find(t)
	}
	return b
}

func (b *bench) find(t testing.TB) {
	res := b.result(t, programMount, 1, opaque(nil, "/root"))
	r, _, err := mount.ReadMountres3(bytes.NewReader(res))
	mounted, is := r.(*mount.Mountres3_MNT3_OK)
	if !is {
		t.Fatalf("mount: %v, %v", r, err)
	}
	b.dir = mounted.Mountinfo.Fhandle
	for name, h := range map[string]*[]byte{"file": &b.file, "link": &b.link} {
		res := b.result(t, programNFS, 3, opaque(opaque(nil, string(b.dir)), name))
		r, _, err := nfsv3.ReadLookup3res(bytes.NewReader(res))
		ok, is := r.(*nfsv3.Lookup3res_NFS3_OK)
		if !is {
			t.Fatalf("lookup of %s: %v, %v", name, r, err)
		}
		*h = ok.Resok.Object.Data
	}
}

func opaque(b []byte, v string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
	b = append(b, v...)
	return append(b, make([]byte, -len(v)&3)...)
}

func words(v ...uint32) (b []byte) {
	for _, w := range v {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}

// call returns the record of a call by root, without the record mark.
func call(prog, proc uint32, args []byte) []byte {
	b := words(7, 0, 2, prog, 3, proc, 1, 20, 0, 0, 0, 0, 0, 0, 0)
	return append(b, args...)
}

// ask sends one record to the server on a new connection, and returns the record of its answer, or
// nil if the server closes the connection.
func (b *bench) ask(t testing.TB, record []byte) []byte {
	near, far := net.Pipe()
	b.next <- end{far}
	defer near.Close()
	near.SetDeadline(time.Now().Add(20 * time.Second))
	go near.Write(append(words(lastFragment|uint32(len(record))), record...))
	var mark [4]byte
	if _, err := io.ReadFull(near, mark[:]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("neither answered nor closed")
		}
		return nil
	}
	n := binary.BigEndian.Uint32(mark[:])
	if n&lastFragment == 0 {
		t.Fatal("a reply in fragments")
	}
	reply := make([]byte, n&^lastFragment)
	if _, err := io.ReadFull(near, reply); err != nil {
		t.Fatal(err)
	}
	return reply
}

// result makes a good call and returns its result.
func (b *bench) result(t testing.TB, prog, proc uint32, args []byte) []byte {
	v, res := decodeReply(t, b.ask(t, call(prog, proc, args)))
	if v != accepted {
		t.Fatalf("call %d of %d: %v", proc, prog, v)
	}
	return res
}

// verdict is the reaction to a call.
type verdict string

const (
	accepted verdict = "accepted"
	garbage  verdict = "garbage arguments"
	closed   verdict = "no call"
	badAuth  verdict = "bad credential"
	unknown  verdict = "no such procedure"
	either   verdict = "that may be taken in two ways"
)

// decodeReply decodes a whole reply with the oracle, and returns the bytes of its result.
func decodeReply(t testing.TB, reply []byte) (verdict, []byte) {
	if reply == nil {
		return closed, nil
	}
	var m rpcv2.RpcMsg
	r := bytes.NewReader(reply)
	if _, err := m.ReadFrom(r); err != nil {
		t.Fatalf("an invalid reply: %v: %x", err, reply)
	}
	body, ok := m.Body.(*rpcv2.RpcMsgBody_REPLY)
	if !ok || m.Xid != binary.BigEndian.Uint32(reply) {
		t.Fatalf("an invalid reply: %x", reply)
	}
	var out bytes.Buffer
	if m.WriteTo(&out); !bytes.HasPrefix(reply, out.Bytes()) {
		t.Fatalf("a reply that is encoded in another way:\n%x\n%x", reply, out.Bytes())
	}
	if d, ok := body.Rbody.(*rpcv2.ReplyBody_MSG_DENIED); ok {
		if _, ok := d.Rreply.(*rpcv2.RejectedReply_AUTH_ERROR); ok {
			return badAuth, nil
		}
		return either, nil
	}
	switch d := body.Rbody.(*rpcv2.ReplyBody_MSG_ACCEPTED).Areply.ReplyData.(type) {
	case *rpcv2.AcceptedReplyData_SUCCESS:
		return accepted, reply[len(reply)-r.Len():]
	case *rpcv2.AcceptedReplyData_default:
		if d.Stat == rpcv2.GARBAGE_ARGS {
			return garbage, nil
		}
	}
	if r.Len() > 0 {
		t.Fatalf("%d bytes behind an error", r.Len())
	}
	return unknown, nil
}

package oracle

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/mount"
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv3"
	"github.com/buildbarn/go-xdr/pkg/protocols/rpcv2"
)

// procedure is how the oracle decodes the arguments and the result of a procedure.
type procedure struct {
	args func() io.ReaderFrom // nil: none
	res  func(io.Reader) (io.WriterTo, error)
}

func reader[T io.WriterTo](read func(io.Reader) (T, int64, error)) func(io.Reader) (io.WriterTo, error) {
	return func(r io.Reader) (io.WriterTo, error) {
		v, _, err := read(r)
		return v, err
	}
}

func args[T any, P interface {
	*T
	io.ReaderFrom
}]() func() io.ReaderFrom {
	return func() io.ReaderFrom { return P(new(T)) }
}

// written is a function that writes a value.
type written func(io.Writer) (int64, error)

func (w written) WriteTo(out io.Writer) (int64, error) { return w(out) }

// dirpath is the argument of MNT and UMNT.
type dirpath struct{ string }

func (d *dirpath) ReadFrom(r io.Reader) (n int64, err error) {
	d.string, n, err = mount.ReadDirpath(r)
	return n, err
}

var nfsProcedures = []procedure{
	0:  {},
	1:  {args[nfsv3.Getattr3args](), reader(nfsv3.ReadGetattr3res)},
	2:  {args[nfsv3.Setattr3args](), reader(nfsv3.ReadSetattr3res)},
	3:  {args[nfsv3.Lookup3args](), reader(nfsv3.ReadLookup3res)},
	4:  {args[nfsv3.Access3args](), reader(nfsv3.ReadAccess3res)},
	5:  {args[nfsv3.Readlink3args](), reader(nfsv3.ReadReadlink3res)},
	6:  {args[nfsv3.Read3args](), reader(nfsv3.ReadRead3res)},
	7:  {args[nfsv3.Write3args](), reader(nfsv3.ReadWrite3res)},
	8:  {args[nfsv3.Create3args](), reader(nfsv3.ReadCreate3res)},
	9:  {args[nfsv3.Mkdir3args](), reader(nfsv3.ReadMkdir3res)},
	10: {args[nfsv3.Symlink3args](), reader(nfsv3.ReadSymlink3res)},
	11: {args[nfsv3.Mknod3args](), reader(nfsv3.ReadMknod3res)},
	12: {args[nfsv3.Remove3args](), reader(nfsv3.ReadRemove3res)},
	13: {args[nfsv3.Rmdir3args](), reader(nfsv3.ReadRmdir3res)},
	14: {args[nfsv3.Rename3args](), reader(nfsv3.ReadRename3res)},
	15: {args[nfsv3.Link3args](), reader(nfsv3.ReadLink3res)},
	16: {args[nfsv3.Readdir3args](), reader(nfsv3.ReadReaddir3res)},
	17: {args[nfsv3.Readdirplus3args](), reader(nfsv3.ReadReaddirplus3res)},
	18: {args[nfsv3.Fsstat3args](), reader(nfsv3.ReadFsstat3res)},
	19: {args[nfsv3.Fsinfo3args](), reader(nfsv3.ReadFsinfo3res)},
	20: {args[nfsv3.Pathconf3args](), reader(nfsv3.ReadPathconf3res)},
	21: {args[nfsv3.Commit3args](), reader(nfsv3.ReadCommit3res)},
}

var mountProcedures = []procedure{
	0: {},
	1: {args[dirpath](), reader(mount.ReadMountres3)},
	2: {nil, func(r io.Reader) (io.WriterTo, error) {
		v, _, err := mount.ReadMountlist(r)
		return written(func(w io.Writer) (int64, error) { return mount.WriteMountlist(w, v) }), err
	}},
	3: {args[dirpath](), nil},
	4: {},
	5: {nil, func(r io.Reader) (io.WriterTo, error) {
		v, _, err := mount.ReadExports(r)
		return written(func(w io.Writer) (int64, error) { return mount.WriteExports(w, v) }), err
	}},
}

// expect returns what the oracle makes of a record, and the procedure of a good call.
func expect(record []byte) (verdict, *procedure) {
	var m rpcv2.RpcMsg
	r := bytes.NewReader(record)
	_, err := m.ReadFrom(r)
	if may(err) {
		return either, nil
	}
	c, ok := m.Body.(*rpcv2.RpcMsgBody_CALL)
	if err != nil || !ok {
		// For another version of RPC, the record may end here.
		if len(record) >= 12 && !bytes.Equal(record[8:12], words(2)) {
			return either, nil
		}
		return closed, nil
	}
	body := &c.Cbody
	if body.Rpcvers != 2 {
		return either, nil
	}
	var procs []procedure
	switch {
	case body.Prog == programNFS && body.Vers == 3:
		procs = nfsProcedures
	case body.Prog == programMount && body.Vers == 3:
		procs = mountProcedures
	}
	if body.Proc >= uint32(len(procs)) {
		return unknown, nil
	}
	p := &procs[body.Proc]
	if v := authentic(body); body.Proc != 0 && v != accepted { // everyone may call NULL
		return v, nil
	}
	if p.args == nil {
		return accepted, p
	}
	a := p.args()
	_, err = a.ReadFrom(r)
	switch {
	case may(err) || err == nil && unnamed(a):
		return either, p
	case err != nil:
		return garbage, p
	}
	return accepted, p
}

func authentic(body *rpcv2.CallBody) verdict {
	switch body.Cred.Flavor {
	case rpcv2.AUTH_NONE:
		return accepted
	case rpcv2.AUTH_SYS:
		var p rpcv2.AuthsysParms
		r := bytes.NewReader(body.Cred.Body)
		_, err := p.ReadFrom(r)
		if may(err) {
			return either
		}
		if err == nil && r.Len() == 0 {
			return accepted
		}
	}
	return badAuth
}

// may reports whether the oracle refuses what our server may accept: names that are not ASCII, and
// padding that is not zero.
func may(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "non-ASCII") || strings.Contains(err.Error(), "padding contains"))
}

// unnamed reports whether arguments have a number that is not in an enumeration, which the oracle
// accepts.
func unnamed(a io.ReaderFrom) bool {
	times := func(s *nfsv3.Sattr3) bool { return uint32(s.Atime.GetSetIt()) > 2 || uint32(s.Mtime.GetSetIt()) > 2 }
	switch a := a.(type) {
	case *nfsv3.Setattr3args:
		return times(&a.NewAttributes)
	case *nfsv3.Write3args:
		return uint32(a.Stable) > 2
	case *nfsv3.Create3args:
		switch how := a.How.(type) {
		case *nfsv3.Createhow3_UNCHECKED:
			return times(&how.ObjAttributes)
		case *nfsv3.Createhow3_GUARDED:
			return times(&how.ObjAttributes)
		}
	case *nfsv3.Mkdir3args:
		return times(&a.Attributes)
	case *nfsv3.Symlink3args:
		return times(&a.Symlink.SymlinkAttributes)
	case *nfsv3.Mknod3args:
		switch what := a.What.(type) {
		case *nfsv3.Mknoddata3_NF3CHR:
			return times(&what.Device.DevAttributes)
		case *nfsv3.Mknoddata3_NF3BLK:
			return times(&what.Device.DevAttributes)
		case *nfsv3.Mknoddata3_NF3SOCK:
			return times(&what.PipeAttributes)
		case *nfsv3.Mknoddata3_NF3FIFO:
			return times(&what.PipeAttributes)
		}
	}
	return false
}

// compare sends one record to the server and compares its answer with the oracle's.
func compare(t *testing.T, b *bench, record []byte) {
	want, p := expect(record)
	got, res := decodeReply(t, b.ask(t, record))
	if want != either && got != want {
		t.Fatalf("treated as %s, but the oracle says %s: %x", got, want, record)
	}
	if got != accepted || p == nil || p.res == nil {
		if got == accepted && len(res) > 0 && p != nil {
			t.Fatalf("a result of nothing: %x", res)
		}
		return
	}
	r := bytes.NewReader(res)
	v, err := p.res(r)
	if may(err) {
		return
	}
	if err != nil || r.Len() > 0 {
		t.Fatalf("an invalid result: %v, %d bytes more: %x", err, r.Len(), res)
	}
	var again bytes.Buffer
	if v.WriteTo(&again); !bytes.Equal(again.Bytes(), res) {
		t.Fatalf("a result that is encoded in another way:\n%x\n%x", res, again.Bytes())
	}
}

// good returns good arguments for every procedure, after its first handle, by program and
// procedure.
func good(b *bench) map[[2]uint32][][]byte {
	dir, file := string(b.dir), string(b.file)
	set := words(1, 0o640, 1, 0, 0, 1, 0, 5, 1, 2, 1<<30, 5)
	no := words(0, 0, 0, 0, 0, 0)
	with := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	name := func(n string) []byte { return opaque(nil, n) }
	return map[[2]uint32][][]byte{
		{programNFS, 0}:  {nil},
		{programNFS, 1}:  {nil},
		{programNFS, 2}:  {with(no, words(0)), with(set, words(1, 2, 3))},
		{programNFS, 3}:  {name("file"), name("none"), name(".."), name("")},
		{programNFS, 4}:  {words(63)},
		{programNFS, 5}:  {nil},
		{programNFS, 6}:  {words(0, 0, 100), words(0, 2, 3), words(1, 0, 1<<20)},
		{programNFS, 7}:  {with(words(0, 0, 4, 2), opaque(nil, "data")), with(words(0, 0, 4, 0), opaque(nil, "lie"))},
		{programNFS, 8}:  {with(name("new"), words(0), set), with(name("new"), words(1), no), with(name("x"), words(2, 3, 4))},
		{programNFS, 9}:  {with(name("dir"), no)},
		{programNFS, 10}: {with(name("sym"), no, name("file"))},
		{programNFS, 11}: {with(name("dev"), words(4), set, words(1, 3)), with(name("pipe"), words(7), no), with(name("bad"), words(1))},
		{programNFS, 12}: {name("dir"), name("gone")},
		{programNFS, 13}: {name("dir"), name("gone")},
		{programNFS, 14}: {with(name("gone"), name(dir), name("file")), with(name("x"), name(dir), name("y"))},
		{programNFS, 15}: {with(name(dir), name("hard")), with(name(file), name("x"))},
		{programNFS, 16}: {words(0, 0, 0, 0, 4096), words(0, 0, 0, 0, 200)},
		{programNFS, 17}: {words(0, 0, 0, 0, 4096, 4096), words(0, 0, 0, 0, 100, 400)},
		{programNFS, 18}: {nil},
		{programNFS, 19}: {nil},
		{programNFS, 20}: {nil},
		{programNFS, 21}: {words(0, 0, 0)},
	}
}

// records returns good calls of every procedure for a directory, a file and a link.
func records(b *bench) (all [][]byte) {
	for k, list := range good(b) {
		for _, a := range list {
			for _, h := range [][]byte{b.dir, b.file, b.link} {
				all = append(all, call(k[0], k[1], append(opaque(nil, string(h)), a...)))
			}
		}
	}
	for proc := range uint32(6) {
		all = append(all, call(programMount, proc, opaque(nil, "/root")))
	}
	return append(all, call(programNFS, 22, nil), call(programMount, 6, nil), call(100021, 1, nil))
}

// TestCalls makes every call, complete and cut at every word.
func TestCalls(t *testing.T) {
	b := start(t)
	for _, r := range records(b) {
		for n := len(r); n >= 0; n -= 4 {
			compare(t, b, r[:n])
		}
	}
}

// TestCallsOfOneNumber checks that a request is a repetition only if all its bytes are the same,
// however they are divided into credential and arguments.
func TestCallsOfOneNumber(t *testing.T) {
	b := start(t)
	head := words(7, 0, 2, programNFS, 3, 11, 0)
	// A credential of four bytes, and too few arguments.
	compare(t, b, bytes.Join([][]byte{head, words(4, 0, 0, 0, 0, 0)}, nil))
	// No credential, and as many bytes of arguments as before.
	compare(t, b, bytes.Join([][]byte{head, words(0, 0, 0, 0, 0, 0)}, nil))
}

// FuzzCall sends arbitrary records.
func FuzzCall(f *testing.F) {
	b := start(f)
	for _, r := range records(b) {
		f.Add(r)
	}
	f.Fuzz(func(t *testing.T, record []byte) { compare(t, b, record) })
}

// FuzzArguments sends arbitrary arguments after a good handle.
func FuzzArguments(f *testing.F) {
	b := start(f)
	for k, list := range good(b) {
		for _, a := range list {
			f.Add(uint8(k[1]), uint8(0), a)
			f.Add(uint8(k[1]), uint8(1), a)
		}
	}
	f.Fuzz(func(t *testing.T, proc, which uint8, a []byte) {
		h := [][]byte{b.dir, b.file, b.link}[which%3]
		compare(t, b, call(programNFS, uint32(proc)%22, append(opaque(nil, string(h)), a...)))
	})
}

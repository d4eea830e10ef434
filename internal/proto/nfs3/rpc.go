package nfs3

import "errors"

// Numbers of ONC RPC (RFC 5531, sections 8 and 9).
const (
	rpcVersion = 2
	msgCall    = 0
	msgReply   = 1

	replyAccepted = 0
	replyDenied   = 1

	acceptSuccess      = 0
	acceptProgUnavail  = 1
	acceptProgMismatch = 2
	acceptProcUnavail  = 3
	acceptGarbageArgs  = 4

	rejectRPCMismatch = 0
	rejectAuthError   = 1
	authBadCred       = 1

	authNone = 0
	authSys  = 1

	maxAuth    = 400 // bytes of a credential or verifier
	maxMachine = 255 // bytes of an AUTH_SYS machine name
	maxGroups  = 16  // of AUTH_SYS

	lastFragment = 1 << 31 // in a record mark (section 11)
	recordMark   = 4       // bytes
)

// call is one request. Its bytes lie in the record that it was parsed from.
type call struct {
	xid, rpc, prog, vers, proc uint32
	flavor                     uint32 // of the credential
	credential                 []byte
	args                       args
	who                        *cred // the user of the request, before any squashing
	most                       int   // bytes that a READ may give; set when memory is short, else maxData
}

func (q *call) isRead() bool { return q.prog == programNFS && q.proc == procRead }

var errNotCall = errors.New("the data received is not an RPC call")

// parseCall reads the head of a call. An error means that there is nothing to answer. Further
// fields than rpc are set only for the version that is spoken here.
func parseCall(record []byte) (q call, err error) {
	a := args{b: record}
	q.xid = a.u32()
	kind := a.u32()
	q.rpc = a.u32()
	if a.bad || kind != msgCall {
		return q, errNotCall
	}
	if q.rpc != rpcVersion {
		return q, nil
	}
	q.prog, q.vers, q.proc = a.u32(), a.u32(), a.u32()
	q.flavor = a.u32()
	q.credential = a.opaque(maxAuth)
	a.u32() // the verifier, which AUTH_SYS does not use
	a.opaque(maxAuth)
	if a.bad {
		return q, errNotCall
	}
	q.args = a
	q.most = maxData
	return q, nil
}

// begin appends the head of a record with an accepted reply; status is to follow, and end.
func begin(out []byte, xid uint32) []byte {
	out = appendU32(out, 0) // record mark, see end
	out = appendU32(out, xid)
	out = appendU32(out, msgReply)
	out = appendU32(out, replyAccepted)
	out = appendU32(out, authNone) // the verifier
	return appendU32(out, 0)
}

// deny appends the head of a record with a denied reply.
func deny(out []byte, xid uint32, why ...uint32) []byte {
	out = appendU32(out, 0)
	out = appendU32(out, xid)
	out = appendU32(out, msgReply)
	out = appendU32(out, replyDenied)
	for _, v := range why {
		out = appendU32(out, v)
	}
	return out
}

// end sets the mark of the record that begins at start and is the last in out.
func end(out []byte, start int) []byte {
	be.PutUint32(out[start:], lastFragment|uint32(len(out)-start-recordMark))
	return out
}

// program is a program of RPC in the one version that is spoken here.
type program struct {
	number, version uint32
	procs           []procedure
}

// procedure is one of a program. run decodes q.args, and appends the result to out; where args
// turned out to be bad what it appended has no meaning.
type procedure struct {
	run    func(c *conn, q *call, out []byte) []byte
	beside bool // it takes long as a rule: other requests are not to wait for it
	once   bool // doing it a second time gives another result: see replays
}

// find returns the procedure that q calls. Without one it returns the status to answer, and what
// belongs to it.
func find(programs []program, q *call) (p *procedure, status []uint32) {
	for i := range programs {
		g := &programs[i]
		switch {
		case g.number != q.prog:
			continue
		case g.version != q.vers:
			return nil, []uint32{acceptProgMismatch, g.version, g.version}
		case q.proc >= uint32(len(g.procs)) || g.procs[q.proc].run == nil:
			return nil, []uint32{acceptProcUnavail}
		}
		return &g.procs[q.proc], nil
	}
	return nil, []uint32{acceptProgUnavail}
}

// respond appends the record that answers q: what p, which find returned, has to say, for
// connection c. With a nil p it is what is wrong with q; if that is nothing that find finds, it is
// the credential.
func respond(programs []program, c *conn, p *procedure, q *call, out []byte) []byte {
	start := len(out)
	switch {
	case q.rpc != rpcVersion:
		return end(deny(out, q.xid, rejectRPCMismatch, rpcVersion, rpcVersion), start)
	case p == nil:
		_, why := find(programs, q)
		if why == nil {
			return end(deny(out, q.xid, rejectAuthError, authBadCred), start)
		}
		out = begin(out, q.xid)
		for _, v := range why {
			out = appendU32(out, v)
		}
		return end(out, start)
	}
	out = begin(out, q.xid)
	at := len(out)
	out = appendU32(out, acceptSuccess)
	out = p.run(c, q, out)
	if q.args.bad {
		out = appendU32(out[:at], acceptGarbageArgs)
	}
	return end(out, start)
}

package nfs3

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// replays keeps the answers to requests that must not be done twice. A client whose connection
// broke connects again and repeats, under the same number, what it has no answer to: the second
// REMOVE of a file would tell that there is none. (The kernel's server does the same:
// fs/nfsd/nfscache.c.) After a restart of the server they are gone.
type replays struct {
	seed maphash.Seed
	mu   sync.Mutex
	all  map[replayKey]*replay
	ring [maxReplays]replayKey // in the order of coming
	next int
}

const (
	maxReplays = 4096
	replayTime = 2 * time.Minute // after which a number may well be another request's
	maxReplay  = 1 << 10         // bytes of an answer
)

// replayKey tells requests apart: by all that they say.
type replayKey struct {
	peer      netip.Addr
	xid, proc uint32
	sum       uint64 // of credential and arguments
}

type replay struct {
	done   chan struct{} // closed when answer is there; nil if it is not to be repeated
	answer []byte
	at     time.Time
}

// once is answer for a procedure that must not run twice.
func (c *conn) once(p *procedure, q *call, out []byte) []byte {
	r := &c.srv.replays
	key := replayKey{c.Peer.Addr(), q.xid, q.proc, r.sum(q)}
	mine, old := r.begin(key)
	if old != nil {
		<-old.done
		if old.answer != nil {
			return append(out, old.answer...)
		}
		return c.answer(p, q, out)
	}
	start := len(out)
	defer close(mine.done)
	out = c.answer(p, q, out)
	if n := len(out) - start; n <= maxReplay {
		mine.answer = append([]byte(nil), out[start:]...)
	}
	return out
}

func (r *replays) sum(q *call) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	maphash.WriteComparable(&h, [2]uint32{q.flavor, uint32(len(q.credential))}) // where the one ends and the other begins
	h.Write(q.credential)
	h.Write(q.args.b)
	return h.Sum64()
}

// begin returns the same request's replay of before, or the new one that the caller is to complete.
func (r *replays) begin(key replayKey) (mine, old *replay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.all[key]; old != nil && time.Since(old.at) < replayTime {
		return nil, old
	}
	if r.all == nil {
		r.all = make(map[replayKey]*replay)
	}
	mine = &replay{done: make(chan struct{}), at: time.Now()}
	delete(r.all, r.ring[r.next])
	r.ring[r.next] = key
	r.next = (r.next + 1) % maxReplays
	r.all[key] = mine
	return mine, nil
}

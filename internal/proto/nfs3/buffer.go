package nfs3

// slack is the room of a buffer beside its power of two, so that the largest READ and WRITE fit
// with their heads.
const slack = 2048

const (
	maxRecord    = maxData + slack
	connMemory   = 16 << 20 // bytes of one connection's requests under way
	connInFlight = 64       // and their number
	smallRead    = 128 << 10
)

// buffer returns an empty buffer with room for n bytes, at most maxRecord, and bufferSize how many
// bytes it has.
func (s *Server) buffer(n int) *[]byte { return s.bufs.Get(n - slack) }

func (s *Server) bufferSize(n int) int64 { return s.bufs.Size(n - slack) }

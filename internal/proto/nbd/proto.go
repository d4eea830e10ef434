package nbd

import "encoding/binary"

// Magic numbers that open each kind of message (proto.md, "Handshake" and "Transmission").
const (
	magicInit       uint64 = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     uint64 = 0x49484156454f5054 // "IHAVEOPT"
	magicOldstyle   uint64 = 0x0000420281861253
	magicReply      uint64 = 0x0003e889045565a9
	magicRequest    uint32 = 0x25609513
	magicSimple     uint32 = 0x67446698
	magicStructured uint32 = 0x668e33ef
)

// Handshake flags of the server; the client answers with the same bits in 32 bits.
const (
	flagFixedNewstyle uint16 = 1 << 0
	flagNoZeroes      uint16 = 1 << 1
)

// Transmission flags: what the server says of an export. Linux knows the first nine by the same
// values (include/uapi/linux/nbd.h) and takes them in NBD_ATTR_SERVER_FLAGS.
const (
	FlagHasFlags     uint16 = 1 << 0
	FlagReadOnly     uint16 = 1 << 1
	FlagSendFlush    uint16 = 1 << 2
	FlagSendFUA      uint16 = 1 << 3
	FlagRotational   uint16 = 1 << 4
	FlagSendTrim     uint16 = 1 << 5
	FlagSendZeroes   uint16 = 1 << 6
	FlagSendDF       uint16 = 1 << 7
	FlagCanMultiConn uint16 = 1 << 8
	FlagSendCache    uint16 = 1 << 10
)

// Options of the haggling.
const (
	optExportName  uint32 = 1
	optAbort       uint32 = 2
	optList        uint32 = 3
	optStartTLS    uint32 = 5
	optInfo        uint32 = 6
	optGo          uint32 = 7
	optStructured  uint32 = 8
	optListContext uint32 = 9
	optSetContext  uint32 = 10
)

// Replies to options; those with the top bit are errors and may carry a text for people.
const (
	repAck        uint32 = 1
	repServer     uint32 = 2
	repInfo       uint32 = 3
	repContext    uint32 = 4
	repError      uint32 = 1 << 31
	repErrUnsup          = repError + 1
	repErrPolicy         = repError + 2
	repErrInvalid        = repError + 3
	repErrTLSReqd        = repError + 5
	repErrUnknown        = repError + 6
)

// Information items of INFO and GO.
const (
	infoExport      uint16 = 0
	infoName        uint16 = 1
	infoDescription uint16 = 2
	infoBlockSize   uint16 = 3
)

// Commands of the transmission.
const (
	cmdRead        uint16 = 0
	cmdWrite       uint16 = 1
	cmdDisc        uint16 = 2
	cmdFlush       uint16 = 3
	cmdTrim        uint16 = 4
	cmdCache       uint16 = 5
	cmdWriteZeroes uint16 = 6
	cmdBlockStatus uint16 = 7
)

// Command flags.
const (
	cmdFlagDF     uint16 = 1 << 2
	cmdFlagReqOne uint16 = 1 << 3
)

// Chunks of structured replies.
const (
	chunkDone        uint16 = 1 << 0 // flag: the last of its request
	chunkNone        uint16 = 0
	chunkData        uint16 = 1
	chunkBlockStatus uint16 = 5
	chunkError       uint16 = 1<<15 + 1
)

// Error numbers on the wire: fixed by the protocol, whatever the host's errno are.
const (
	errPerm     uint32 = 1
	errIO       uint32 = 5
	errInval    uint32 = 22
	errOverflow uint32 = 75
)

// Status bits of base:allocation.
const (
	stateHole uint32 = 1 << 0
	stateZero uint32 = 1 << 1
)

const (
	contextAllocation          = "base:allocation"
	contextAllocationID uint32 = 1

	maxString   = 4096     // bytes of a name or text (proto.md, "Strings")
	maxPayload  = 32 << 20 // bytes of a READ or WRITE: the protocol's default, and what we advertise
	minBlock    = 1
	preferBlock = 4096

	optionHead     = 16 // magic, option, length
	replyHead      = 20 // magic, option, type, length
	requestHead    = 28
	simpleHead     = 16
	chunkHead      = 20
	dataChunkHead  = chunkHead + 8
	exportNamePad  = 124 // zero bytes after EXPORT_NAME's answer unless NO_ZEROES
	exportNameHead = 10  // size, flags
)

var be = binary.BigEndian

// appendReply appends one option reply that carries data.
func appendReply(b []byte, option, kind uint32, data []byte) []byte {
	b = be.AppendUint64(b, magicReply)
	b = be.AppendUint32(b, option)
	b = be.AppendUint32(b, kind)
	b = be.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// cursor takes integers and strings off the front of received data. After a take beyond the end it
// is bad, and stays so; the caller asks once at the end.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n uint32) []byte {
	if c.bad || uint64(n) > uint64(len(c.b)) {
		c.bad = true
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) u16() uint16 {
	if v := c.take(2); v != nil {
		return be.Uint16(v)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if v := c.take(4); v != nil {
		return be.Uint32(v)
	}
	return 0
}

// str takes a string behind its 32-bit length. A string over the protocol's limit is bad data.
func (c *cursor) str() string {
	n := c.u32()
	if n > maxString {
		c.bad = true
	}
	return string(c.take(n))
}

// end reports whether everything was taken and nothing was missing.
func (c *cursor) end() bool { return !c.bad && len(c.b) == 0 }

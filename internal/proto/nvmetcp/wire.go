package nvmetcp

import (
	"encoding/binary"
	"hash/crc32"
)

// PDU types (TCP Transport, "PDU Type").
const (
	pduICReq    uint8 = 0x00
	pduICResp   uint8 = 0x01
	pduH2CTerm  uint8 = 0x02
	pduC2HTerm  uint8 = 0x03
	pduCommand  uint8 = 0x04
	pduResponse uint8 = 0x05
	pduH2CData  uint8 = 0x06
	pduC2HData  uint8 = 0x07
)

// PDU flags.
const (
	flagHeaderDigest uint8 = 1 << 0
	flagDataDigest   uint8 = 1 << 1
	flagLast         uint8 = 1 << 2
	flagSuccess      uint8 = 1 << 3
)

// Fatal error status of a terminated connection (TCP Transport, "FES").
const (
	fesHeaderField  uint16 = 1
	fesSequence     uint16 = 2
	fesHeaderDigest uint16 = 3
	fesUnsupported  uint16 = 6
)

// Sizes in bytes.
const (
	headSize     = 8 // of the header that all PDUs have
	icSize       = 128
	termSize     = 24
	sqeSize      = 64
	commandSize  = headSize + sqeSize
	responseSize = headSize + 16
	dataHeadSize = 24
	digestSize   = 4
	nqnSize      = 256 // of the field; a name has 223 at most
	maxNQN       = 223
	connectSize  = 1024
	maxInCapsule = 8192                                                            // data in an admin or fabrics command
	maxAlign     = 128                                                             // of the data in a PDU
	maxCommand   = commandSize + digestSize + maxAlign + maxInCapsule + digestSize // a PDU that we take
	identifySize = 4096
	minH2CData   = 4096 // the least that may be advertised; nothing is ever asked for
)

// Opcodes.
const (
	opFabrics uint8 = 0x7f

	opGetLogPage  uint8 = 0x02
	opIdentify    uint8 = 0x06
	opAbort       uint8 = 0x08
	opSetFeatures uint8 = 0x09
	opGetFeatures uint8 = 0x0a
	opAsyncEvent  uint8 = 0x0c
	opKeepAlive   uint8 = 0x18

	opFlush       uint8 = 0x00
	opWrite       uint8 = 0x01
	opRead        uint8 = 0x02
	opWriteUncor  uint8 = 0x04
	opWriteZeroes uint8 = 0x08
	opDSM         uint8 = 0x09
)

// Fabrics command types.
const (
	fabricsPropertySet uint8 = 0x00
	fabricsConnect     uint8 = 0x01
	fabricsPropertyGet uint8 = 0x04
)

// Descriptors of where a command's data is: their type and subtype.
const (
	psdtSGL       uint8 = 1 << 6 // command flags: a descriptor and no page list; the only one allowed on fabrics
	sglInCapsule  uint8 = 0x01   // data block, offset in the capsule
	sglByTransfer uint8 = 0x5a   // transport data block, by C2HData or H2CData
)

// status is a status code and its type as the Base specification numbers them, 0xTCC, with the bit
// that says that trying again does not help.
type status uint16

const (
	statusSuccess       status = 0x000
	statusOpcode        status = 0x001 | noRetry
	statusField         status = 0x002 | noRetry
	statusInternal      status = 0x006
	statusAborted       status = 0x007
	statusNamespace     status = 0x00b | noRetry
	statusSequence      status = 0x00c | noRetry
	statusSGLLength     status = 0x00f | noRetry
	statusSGLType       status = 0x011 | noRetry
	statusSGLOffset     status = 0x016 | noRetry
	statusProtected     status = 0x020 | noRetry
	statusTransient     status = 0x022 // transport error: a digest of data that did not match
	statusRange         status = 0x080 | noRetry
	statusAsyncLimit    status = 0x105 | noRetry
	statusLogPage       status = 0x109 | noRetry
	statusNotSaveable   status = 0x10d | noRetry
	statusConnectFormat status = 0x180 | noRetry
	statusReadError     status = 0x281

	// Refusals of Connect. They do not say "do not retry" though a host asks for what is not there:
	// to Linux 6.10 and newer that bit means to give up a controller for good, and a server that
	// has just started may not have its images yet (nvmf_should_reconnect).
	statusBusy         status = 0x181
	statusConnectParam status = 0x182

	noRetry status = 0x4000
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func appendDigest(b, of []byte) []byte {
	return le.AppendUint32(b, crc32.Checksum(of, castagnoli))
}

// head is what every PDU begins with.
type head struct {
	kind, flags, hlen, pdo uint8
	plen                   uint32
}

func parseHead(b []byte) head {
	return head{kind: b[0], flags: b[1], hlen: b[2], pdo: b[3], plen: le.Uint32(b[4:])}
}

func (h head) append(b []byte) []byte {
	return le.AppendUint32(append(b, h.kind, h.flags, h.hlen, h.pdo), h.plen)
}

// command is one that a host sent. The next one overwrites it.
type command struct {
	sqe     [sqeSize]byte
	data    []byte // in its capsule
	damaged bool   // data, and not as its digest says
}

func (c *command) opcode() uint8      { return c.sqe[0] }
func (c *command) flags() uint8       { return c.sqe[1] }
func (c *command) id() uint16         { return le.Uint16(c.sqe[2:]) }
func (c *command) fabricsType() uint8 { return c.sqe[4] }
func (c *command) nsid() uint32       { return le.Uint32(c.sqe[4:]) }

// dword returns CDWn.
func (c *command) dword(n int) uint32 { return le.Uint32(c.sqe[4*n:]) }

// sent returns the n bytes of data that the command needs to have in its capsule.
func (c *command) sent(n uint32) ([]byte, status) {
	off, size := le.Uint64(c.sqe[24:]), le.Uint32(c.sqe[32:])
	switch have := uint64(len(c.data)); {
	case c.sqe[39] != sglInCapsule:
		return nil, statusSGLType
	case size < n:
		return nil, statusSGLLength
	case off > have || uint64(n) > have-off:
		return nil, statusSGLOffset
	}
	return c.data[le.Uint64(c.sqe[24:]):][:n], statusSuccess
}

// takes says whether the host has room for n bytes of data that the command returns.
func (c *command) takes(n int64) status {
	switch {
	case c.sqe[39] != sglByTransfer:
		return statusSGLType
	case int64(le.Uint32(c.sqe[32:])) < n:
		return statusSGLLength
	}
	return statusSuccess
}

// fatal is an error of the host that ends the connection, in the terms in which it is told.
type fatal struct {
	fes    uint16
	fei    uint32 // byte offset of the wrong field, or the wrong digest
	header []byte // of the PDU
	text   string
}

func (f *fatal) Error() string { return f.text }

// append appends the C2HTermReq that tells the host.
func (f *fatal) append(b []byte) []byte {
	header := f.header[:min(len(f.header), icSize)]
	b = head{kind: pduC2HTerm, hlen: termSize, plen: uint32(termSize + len(header))}.append(b)
	b = le.AppendUint16(b, f.fes)
	b = le.AppendUint32(b, f.fei)
	b = append(b, make([]byte, 10)...)
	return append(b, header...)
}

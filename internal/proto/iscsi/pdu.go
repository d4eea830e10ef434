package iscsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Opcodes of the initiator (RFC 7143 §11.2.1.2) and of the target.
const (
	opNopOut       byte = 0x00
	opCommand      byte = 0x01
	opTaskRequest  byte = 0x02
	opLoginRequest byte = 0x03
	opTextRequest  byte = 0x04
	opDataOut      byte = 0x05
	opLogout       byte = 0x06
	opSNACK        byte = 0x10

	opNopIn         byte = 0x20
	opResponse      byte = 0x21
	opTaskResponse  byte = 0x22
	opLoginResponse byte = 0x23
	opTextResponse  byte = 0x24
	opDataIn        byte = 0x25
	opLogoutReply   byte = 0x26
	opReject        byte = 0x3f
)

// Bits of byte 0 and 1.
const (
	flagImmediate byte = 0x40 // byte 0
	flagFinal     byte = 0x80 // of every PDU; the transit bit of login
	flagContinue  byte = 0x40 // login and text: the key=value list goes on in the next PDU
	flagRead      byte = 0x40 // SCSI command
	flagStatus    byte = 0x01 // Data-In: status is in this PDU
	flagOverflow  byte = 0x04
	flagUnderflow byte = 0x02
)

// Reasons of a Reject (§11.17.1).
const (
	rejectDigest      byte = 0x02
	rejectSNACK       byte = 0x03
	rejectProtocol    byte = 0x04
	rejectUnsupported byte = 0x05
	rejectTooMany     byte = 0x06 // immediate commands
	rejectTask        byte = 0x07 // the task tag is in use
	rejectField       byte = 0x09
)

const (
	headerSize     = 48
	digestSize     = 4
	noTag          = 0xffffffff // reserved task tag
	dataLengthMask = 1<<24 - 1  // DataSegmentLength has 24 bits
)

var (
	be         = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// header is a basic header segment (§11.2.1).
type header [headerSize]byte

func (h *header) op() byte            { return h[0] & 0x3f }
func (h *header) immediate() bool     { return h[0]&flagImmediate != 0 }
func (h *header) final() bool         { return h[1]&flagFinal != 0 }
func (h *header) ahsLen() int         { return int(h[4]) * 4 }
func (h *header) dataLen() int        { return int(be.Uint32(h[4:]) & dataLengthMask) }
func (h *header) tag() uint32         { return be.Uint32(h[16:]) }
func (h *header) transferTag() uint32 { return be.Uint32(h[20:]) }
func (h *header) cmdSN() uint32       { return be.Uint32(h[24:]) }

func (h *header) setDataLen(n int) { be.PutUint32(h[4:], uint32(h[4])<<24|uint32(n)) }

// digests says which CRC32C a connection carries.
type digests struct{ header, data bool }

var errDataDigest = errors.New("data digest is wrong")

// padding returns the bytes that fill n up to a multiple of 4.
func padding(n int) int { return -n & 3 }

// dataSize is what a data segment of n bytes takes on the wire.
func (d digests) dataSize(n int) int {
	if n == 0 {
		return 0
	}
	n += padding(n)
	if d.data {
		n += digestSize
	}
	return n
}

// headSize is what a header without additional segments takes on the wire.
func (d digests) headSize() int {
	if d.header {
		return headerSize + digestSize
	}
	return headerSize
}

// seal writes the header digest of the PDU that b begins with.
func (d digests) seal(b []byte) {
	if d.header {
		binary.LittleEndian.PutUint32(b[headerSize:], crc32.Checksum(b[:headerSize], castagnoli))
	}
}

// appendPDU appends h with its data, padded; the header digest is left to seal.
func (d digests) appendPDU(b []byte, h *header, data []byte) []byte {
	h.setDataLen(len(data))
	b = append(b, h[:]...)
	if d.header {
		b = append(b, 0, 0, 0, 0)
	}
	return d.appendData(b, data)
}

func (d digests) appendData(b, data []byte) []byte {
	if len(data) == 0 {
		return b
	}
	from := len(b)
	b = append(b, data...)
	b = append(b, "\x00\x00\x00"[:padding(len(data))]...)
	if d.data {
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
	}
	return b
}

// read reads one PDU into h and returns its data, of at most limit bytes. io.EOF means that there
// was none. It takes no byte more than the PDU from r. After errDataDigest the stream is still in
// step.
func (d digests) read(r io.Reader, h *header, limit int) ([]byte, error) {
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	if err := d.readRest(r, h); err != nil {
		return nil, err
	}
	n := h.dataLen()
	if n == 0 {
		return nil, nil
	}
	if n > limit {
		return nil, fmt.Errorf("PDU %#02x with %d bytes of data, %d were agreed", h.op(), n, limit)
	}
	b := make([]byte, d.dataSize(n))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, notEOF(err)
	}
	if d.data {
		end := len(b) - digestSize
		if binary.LittleEndian.Uint32(b[end:]) != crc32.Checksum(b[:end], castagnoli) {
			return nil, errDataDigest
		}
	}
	return b[:n], nil
}

// readRest reads additional header segments, which nothing here uses, and checks the header digest.
func (d digests) readRest(r io.Reader, h *header) error {
	n := h.ahsLen()
	if n == 0 && !d.header {
		return nil
	}
	if d.header {
		n += digestSize
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return notEOF(err)
	}
	if !d.header {
		return nil
	}
	end := n - digestSize
	sum := crc32.Update(crc32.Checksum(h[:], castagnoli), castagnoli, b[:end])
	if binary.LittleEndian.Uint32(b[end:]) != sum {
		return errors.New("header digest is wrong")
	}
	return nil
}

// notEOF makes the end of a stream within a PDU an error.
func notEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

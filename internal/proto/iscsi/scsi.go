package iscsi

import (
	"errors"
	"io"
)

// cdb is a command descriptor block; what a short one leaves over is zeroes.
type cdb [16]byte

// Operation codes (SPC-4, SBC-3).
const (
	scsiTestUnitReady = 0x00
	scsiRequestSense  = 0x03
	scsiFormatUnit    = 0x04
	scsiReassign      = 0x07
	scsiRead6         = 0x08
	scsiWrite6        = 0x0a
	scsiInquiry       = 0x12
	scsiModeSense6    = 0x1a
	scsiStartStop     = 0x1b
	scsiPreventAllow  = 0x1e
	scsiReadCapacity  = 0x25
	scsiRead10        = 0x28
	scsiWrite10       = 0x2a
	scsiWriteVerify10 = 0x2e
	scsiPrefetch10    = 0x34
	scsiSyncCache10   = 0x35
	scsiWriteSame10   = 0x41
	scsiUnmap         = 0x42
	scsiSanitize      = 0x48
	scsiModeSense10   = 0x5a
	scsiRead16        = 0x88
	scsiCompareWrite  = 0x89
	scsiWrite16       = 0x8a
	scsiOrWrite16     = 0x8b
	scsiWriteVerify16 = 0x8e
	scsiPrefetch16    = 0x90
	scsiSyncCache16   = 0x91
	scsiWriteSame16   = 0x93
	scsiWriteAtomic16 = 0x9c
	scsiServiceIn16   = 0x9e
	scsiReportLUNs    = 0xa0
	scsiMaintenanceIn = 0xa3
	scsiRead12        = 0xa8
	scsiWrite12       = 0xaa
	scsiWriteVerify12 = 0xae
	actionCapacity16  = 0x10 // of SERVICE ACTION IN (16)
	actionReportOps   = 0x0c // of MAINTENANCE IN
)

const (
	blockSize     = 512
	physicalShift = 3       // 8 blocks are one of 4 KiB, as most packed roots have
	maxBlocks     = 1 << 16 // of one command, 32 MiB
	optimalBlocks = 1 << 11 // 1 MiB
)

// sense is why a command failed (SPC-4 §4.5); the zero value is that it did not.
type sense struct{ key, asc, ascq byte }

var (
	senseUnreadable = sense{0x03, 0x11, 0x00} // MEDIUM ERROR, UNRECOVERED READ ERROR
	senseOpcode     = sense{0x05, 0x20, 0x00} // ILLEGAL REQUEST, INVALID COMMAND OPERATION CODE
	senseRange      = sense{0x05, 0x21, 0x00} // LOGICAL BLOCK ADDRESS OUT OF RANGE
	senseField      = sense{0x05, 0x24, 0x00} // INVALID FIELD IN CDB
	senseNoUnit     = sense{0x05, 0x25, 0x00} // LOGICAL UNIT NOT SUPPORTED
	senseNoSaving   = sense{0x05, 0x39, 0x00} // SAVING PARAMETERS NOT SUPPORTED
	senseProtected  = sense{0x07, 0x27, 0x00} // DATA PROTECT, WRITE PROTECTED
)

// fixed is the sense data in fixed format (SPC-4 §4.5.3).
func (s sense) fixed() []byte {
	return []byte{0: 0x70, 2: s.key, 7: 10, 12: s.asc, 13: s.ascq, 17: 0}
}

// descriptor is the sense data in descriptor format (§4.5.2).
func (s sense) descriptor() []byte { return []byte{0x72, s.key, s.asc, s.ascq, 0, 0, 0, 0} }

// outcome is what a command comes to: n bytes of the disk from off, or data, or nothing, or a
// failure.
type outcome struct {
	off, n int64
	data   []byte
	sense  sense
}

func failure(s sense) outcome { return outcome{sense: s} }

// reply is data cut to what the CDB allocates.
func reply(data []byte, allocated uint32) outcome {
	return outcome{data: data[:min(uint64(len(data)), uint64(allocated))]}
}

// disk is LUN 0 of a target.
type disk struct {
	name    string // of the target
	id      [16]byte
	backend Backend
	size    int64 // bytes
	blocks  uint64
}

func newDisk(t *Target) (*disk, error) {
	size := t.Backend.Size()
	if size <= 0 {
		return nil, errors.New("the disk is empty")
	}
	return &disk{t.Name, t.ID, t.Backend, size, (uint64(size) + blockSize - 1) / blockSize}, nil
}

// ReadAt reads from the disk, which ends in zeroes up to a whole block.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	n := int(max(min(int64(len(p)), d.size-off), 0))
	if n > 0 {
		if k, err := d.backend.ReadAt(p[:n], off); k < n {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return k, err
		}
	}
	clear(p[n:])
	return len(p), nil
}

// theLUN reports whether a LUN field names LUN 0 (SAM-5 §4.7: peripheral or flat addressing).
func theLUN(field uint64) bool { return field == 0 || field == 0x4000<<48 }

// execute decides what a command comes to; nothing is read yet.
func (d *disk) execute(lun uint64, c *cdb) outcome {
	if c.control()&0x04 != 0 { // NACA, which INQUIRY does not offer
		return failure(senseField)
	}
	switch c[0] {
	case scsiInquiry:
		return d.inquiry(theLUN(lun), c)
	case scsiReportLUNs:
		return reportLUNs(c)
	case scsiRequestSense:
		return requestSense(theLUN(lun), c)
	}
	if !theLUN(lun) {
		return failure(senseNoUnit)
	}
	switch c[0] {
	case scsiRead6, scsiRead10, scsiRead12, scsiRead16:
		return d.read(c)
	case scsiPrefetch10, scsiPrefetch16, scsiSyncCache10, scsiSyncCache16:
		return d.touch(c)
	case scsiTestUnitReady, scsiStartStop, scsiPreventAllow:
		return outcome{}
	case scsiReadCapacity:
		return d.capacity10()
	case scsiServiceIn16:
		if c.action() == actionCapacity16 {
			return d.capacity16(c)
		}
		return failure(senseField)
	case scsiModeSense6, scsiModeSense10:
		return d.modeSense(c)
	case scsiMaintenanceIn:
		if c.action() == actionReportOps {
			return reportOps(c)
		}
		return failure(senseField)
	}
	if writes(c[0]) {
		return failure(senseProtected)
	}
	return failure(senseOpcode)
}

// writes reports whether an opcode would change the disk.
func writes(op byte) bool {
	switch op {
	case scsiFormatUnit, scsiReassign, scsiWrite6, scsiWrite10, scsiWrite12, scsiWrite16, scsiWriteVerify10,
		scsiWriteVerify12, scsiWriteVerify16, scsiWriteSame10, scsiWriteSame16, scsiWriteAtomic16, scsiUnmap,
		scsiSanitize, scsiCompareWrite, scsiOrWrite16:
		return true
	}
	return false
}

// length is that of the CDB in bytes, by the group of its opcode (SPC-4 §4.2.5.1); 0 for the other
// groups.
func (c *cdb) length() int { return [8]int{6, 10, 10, 0, 16, 12, 0, 0}[c[0]>>5] }

// control is the last byte.
func (c *cdb) control() byte {
	if n := c.length(); n > 0 {
		return c[n-1]
	}
	return 0
}

func (c *cdb) action() byte        { return c[1] & 0x1f }
func (c *cdb) long(at int) uint32  { return be.Uint32(c[at:]) }
func (c *cdb) short(at int) uint32 { return uint32(be.Uint16(c[at:])) }

// extent is the address and number of blocks of a command on the medium.
func (c *cdb) extent() (lba uint64, blocks uint32) {
	switch c.length() {
	case 6:
		lba, blocks = uint64(c.long(0)&0x1fffff), uint32(c[4])
		if blocks == 0 {
			blocks = 256
		}
	case 10:
		lba, blocks = uint64(c.long(2)), c.short(7)
	case 12:
		lba, blocks = uint64(c.long(2)), c.long(6)
	case 16:
		lba, blocks = be.Uint64(c[2:]), c.long(10)
	}
	return lba, blocks
}

func (d *disk) inRange(lba uint64, blocks uint32) bool {
	return lba <= d.blocks && uint64(blocks) <= d.blocks-lba
}

func (d *disk) read(c *cdb) outcome {
	lba, blocks := c.extent()
	switch {
	case c.length() > 6 && c[1]&0xe0 != 0: // RDPROTECT: there is no protection information
		return failure(senseField)
	case !d.inRange(lba, blocks):
		return failure(senseRange)
	case blocks > maxBlocks:
		return failure(senseField)
	}
	return outcome{off: int64(lba * blockSize), n: int64(blocks) * blockSize}
}

// touch answers commands that move no data: the disk has no cache of its own.
func (d *disk) touch(c *cdb) outcome {
	if lba, blocks := c.extent(); !d.inRange(lba, blocks) {
		return failure(senseRange)
	}
	return outcome{}
}

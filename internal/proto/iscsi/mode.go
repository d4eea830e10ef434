package iscsi

import (
	"bytes"
	"slices"
)

// capacity10 answers READ CAPACITY (10) (SBC-3 §5.15).
func (d *disk) capacity10() outcome {
	b := be.AppendUint32(nil, uint32(min(d.blocks-1, 0xffffffff)))
	return outcome{data: be.AppendUint32(b, blockSize)}
}

// capacity16 answers READ CAPACITY (16) (SBC-3 §5.16).
func (d *disk) capacity16(c *cdb) outcome {
	b := make([]byte, 32)
	be.PutUint64(b, d.blocks-1)
	be.PutUint32(b[8:], blockSize)
	b[13] = physicalShift
	return reply(b, c.long(10))
}

// Mode pages (SPC-4 §7.5, SBC-3 §6.4) with their values: nothing in them can be changed.
var modePages = []struct {
	code byte
	body []byte
}{
	{0x08, make([]byte, 18)},      // caching: no write cache, reads may be cached
	{0x0a, []byte{1: 0x10, 9: 0}}, // control: commands may be reordered
	{0x1c, make([]byte, 10)},      // informational exceptions
}

const (
	pageControl = 0x0a
	allPages    = 0x3f
	allSubpages = 0xff
	changeable  = 1
	saved       = 3
	deviceMode  = 0x90 // WP: write-protected; DPOFUA: READ takes DPO and FUA
	softwareWP  = 0x08 // byte 4 of the control page
)

// modeSense answers MODE SENSE (6) and (10) (SPC-4 §6.11).
func (d *disk) modeSense(c *cdb) outcome {
	control, page, sub := c[2]>>6, c[2]&0x3f, c[3]
	if control == saved {
		return failure(senseNoSaving)
	}
	if sub != 0 && sub != allSubpages {
		return failure(senseField)
	}
	var pages []byte
	for _, p := range modePages {
		if page != p.code && page != allPages {
			continue
		}
		body := slices.Clone(p.body)
		if control == changeable {
			clear(body)
		} else if p.code == pageControl {
			body[2] |= softwareWP
		}
		pages = append(append(pages, p.code, byte(len(body))), body...)
	}
	if len(pages) == 0 {
		return failure(senseField)
	}
	descriptor := d.blockDescriptor(c)
	var b bytes.Buffer
	if c[0] == scsiModeSense6 {
		b.Write([]byte{byte(3 + len(descriptor) + len(pages)), 0, deviceMode, byte(len(descriptor))})
	} else {
		b.Write(be.AppendUint16(nil, uint16(6+len(descriptor)+len(pages))))
		b.Write([]byte{0, deviceMode, c[1] >> 4 & 1, 0, 0, byte(len(descriptor))})
	}
	b.Write(descriptor)
	b.Write(pages)
	if c[0] == scsiModeSense6 {
		return reply(b.Bytes(), uint32(c[4]))
	}
	return reply(b.Bytes(), c.short(7))
}

// blockDescriptor is the number and length of blocks, unless it is not wanted; long when that may
// be.
func (d *disk) blockDescriptor(c *cdb) []byte {
	switch {
	case c[1]&0x08 != 0: // DBD
		return nil
	case c[0] == scsiModeSense10 && c[1]&0x10 != 0: // LLBAA
		b := be.AppendUint64(nil, d.blocks)
		return be.AppendUint64(b, blockSize)
	}
	b := be.AppendUint32(nil, uint32(min(d.blocks, 0xffffffff)))
	return be.AppendUint32(b, blockSize)
}

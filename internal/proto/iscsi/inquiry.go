package iscsi

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// What INQUIRY says of every disk.
const (
	vendor   = "NETROOT "
	product  = "root image      "
	revision = "1   "

	noUnit = 0x7f // peripheral qualifier 3, device type 1fh: nothing at this LUN
)

// inquiry answers INQUIRY (SPC-4 §6.6) at the LUN of the disk or at another.
func (d *disk) inquiry(here bool, c *cdb) outcome {
	vital, page := c[1]&1 != 0, c[2]
	if !vital {
		if page != 0 || c[1]&2 != 0 {
			return failure(senseField)
		}
		return reply(standardInquiry(here), c.short(3))
	}
	body, ok := d.vitalPage(page)
	if !ok || !here && page != 0 {
		return failure(senseField)
	}
	b := be.AppendUint16([]byte{0, page}, uint16(len(body)))
	if !here {
		b[0] = noUnit
	}
	return reply(append(b, body...), c.short(3))
}

func standardInquiry(here bool) []byte {
	b := make([]byte, 96)
	if !here {
		b[0] = noUnit
	}
	b[2] = 0x06 // SPC-4
	b[3] = 0x12 // HISUP, response data format 2
	b[4] = byte(len(b) - 5)
	b[7] = 0x02 // CMDQUE
	copy(b[8:], vendor)
	copy(b[16:], product)
	copy(b[32:], revision)
	// Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3.
	for i, v := range []uint16{0x00a0, 0x0960, 0x0460, 0x04c0} {
		be.PutUint16(b[58+2*i:], v)
	}
	return b
}

// vitalPage returns what follows the header of a page of vital product data (SPC-4 §7.8, SBC-3
// §6.5).
func (d *disk) vitalPage(page byte) (body []byte, ok bool) {
	switch page {
	case 0x00: // supported pages
		return []byte{0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2}, true
	case 0x80: // unit serial number
		return []byte(hex.EncodeToString(d.id[:])), true
	case 0x83:
		return d.identification(), true
	case 0xb0: // block limits
		b := make([]byte, 60)
		be.PutUint16(b[2:], 1<<physicalShift) // optimal transfer length granularity
		be.PutUint32(b[4:], maxBlocks)
		be.PutUint32(b[8:], optimalBlocks) // optimal transfer length
		return b, true
	case 0xb1: // block device characteristics
		b := make([]byte, 60)
		be.PutUint16(b[0:], 1) // does not rotate
		return b, true
	case 0xb2: // logical block provisioning: fully provisioned
		return make([]byte, 4), true
	}
	return nil, false
}

// identification is the device identification page. The disk's names come from its ID alone, so
// that the same bytes are the same disk on every server; the target port's come from the target.
func (d *disk) identification() []byte {
	var b []byte
	add := func(set, kind byte, id []byte) {
		b = append(append(b, set, kind, 0, byte(len(id))), id...)
	}
	const (
		binary, ascii, utf8 = 0x01, 0x02, 0x53 // code set; the last with protocol identifier 5, iSCSI
		port                = 0x80 | 0x10      // PIV, of the target port
	)
	naa := [8]byte(d.id[:])
	naa[0] = 0x30 | naa[0]&0x0f // locally assigned
	add(binary, 0x03, naa[:])
	uuid := d.id
	uuid[6] = 0x80 | uuid[6]&0x0f // version 8 (RFC 9562): the maker's own
	uuid[8] = 0x80 | uuid[8]&0x3f
	add(binary, 0x0a, append([]byte{0x10, 0}, uuid[:]...))
	add(ascii, 0x01, []byte(vendor+hex.EncodeToString(d.id[:])))
	add(0x50|binary, port|0x04, []byte{0, 0, 0, 1}) // relative target port
	name := fmt.Sprintf("%s,t,0x%04x", d.name, portalGroup)
	add(utf8, port|0x08, []byte(name+strings.Repeat("\x00", 1+padding(len(name)+1))))
	return b
}

// reportLUNs answers REPORT LUNS (SPC-4 §6.33): LUN 0, unless only well known ones are asked for.
func reportLUNs(c *cdb) outcome {
	switch c[2] {
	case 0, 2:
		return reply([]byte{3: 8, 15: 0}, c.long(6))
	case 1:
		return reply(make([]byte, 8), c.long(6))
	}
	return failure(senseField)
}

// requestSense answers REQUEST SENSE (SPC-4 §6.39): there is never anything pending.
func requestSense(here bool, c *cdb) outcome {
	var s sense
	if !here {
		s = senseNoUnit
	}
	if c[1]&1 != 0 {
		return reply(s.descriptor(), uint32(c[4]))
	}
	return reply(s.fixed(), uint32(c[4]))
}

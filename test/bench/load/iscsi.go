package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/url"
	"strings"

	"netroot/internal/proto/iscsi"
)

// iscsiWire reads by READ (10) from one logical unit, one command after the other.
type iscsiWire struct {
	lun     uint16
	tag, sn uint32
	status  uint32 // number of the next one
}

// ISCSI logs in to the target that an iSCSI URL of libiscsi names, as a session of its own for each
// number.
func ISCSI(ctx context.Context, where string, number int) (*Conn, error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, err
	}
	var w iscsiWire
	target, lun, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if _, err := fmt.Sscan(lun, &w.lun); err != nil {
		return nil, fmt.Errorf("%s: LUN: %w", where, err)
	}
	nc, err := Dial(ctx, u.Host)
	if err != nil {
		return nil, err
	}
	s, err := iscsi.Login(ctx, nc, iscsi.LoginConfig{Initiator: fmt.Sprintf("iqn.2026-01.org.example:host-%s-%d", nc.LocalAddr().(*net.TCPAddr).IP, number), Target: target,
		ISID: [6]byte{0x80, 1, 4: byte(number >> 8), 5: byte(number)}})
	if err != nil {
		nc.Close()
		return nil, err
	}
	w.sn, w.status = s.CmdSN, s.ExpStatSN
	c := newConn(nc, &w, 0)
	var ready [16]byte // TEST UNIT READY, for the unit attention that some targets give to a new session
	if err := w.command(c, ready, 0); err != nil {
		return nil, err
	}
	c.w.Flush()
	w.answer(c, 0)
	return c, nil
}

// command appends a SCSI command PDU (RFC 7143 §11.3) for one that returns n bytes.
func (w *iscsiWire) command(c *Conn, cdb [16]byte, n int) error {
	be := binary.BigEndian
	h := [48]byte{0: 0x01, 1: 0x81} // final, simple
	if n > 0 {
		h[1] |= 0x40 // reads
	}
	be.PutUint16(h[8:], w.lun)
	be.PutUint32(h[16:], w.tag)
	be.PutUint32(h[20:], uint32(n))
	be.PutUint32(h[24:], w.sn)
	be.PutUint32(h[28:], w.status)
	copy(h[32:], cdb[:])
	w.tag++
	w.sn++
	_, err := c.w.Write(h[:])
	return err
}

func (w *iscsiWire) ask(c *Conn, off int64, n int) error {
	cdb := [16]byte{0: 0x28}
	binary.BigEndian.PutUint32(cdb[2:], uint32(off/512))
	binary.BigEndian.PutUint16(cdb[7:], uint16(n/512))
	return w.command(c, cdb, n)
}

// answer reads Data-In until the status comes with it, or a SCSI Response.
func (w *iscsiWire) answer(c *Conn, n int) error {
	for {
		h, err := c.r.Peek(48)
		if err != nil {
			return err
		}
		op, flags, status := h[0], h[1], h[3]
		size := int(binary.BigEndian.Uint32(h[4:]) & 0xffffff)
		done := op == 0x21 || op == 0x25 && flags&1 != 0
		if done {
			w.status = binary.BigEndian.Uint32(h[24:]) + 1
		}
		c.r.Discard(48)
		if err := c.skip((size + 3) &^ 3); err != nil {
			return err
		}
		if n -= size; op != 0x25 && op != 0x21 || done && status != 0 || done && op == 0x25 && n != 0 {
			return fmt.Errorf("iSCSI: PDU %#x with status %d and %d bytes missing", op, status, n)
		}
		if done {
			return nil
		}
	}
}

package load

import (
	"context"
	"encoding/binary"
	"fmt"

	"netroot/internal/proto/nbd"
)

// nbdWire reads with simple replies, as the kernel does.
type nbdWire struct{}

// NBD connects to an export.
func NBD(ctx context.Context, address, export string) (*Conn, error) {
	nc, err := Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	info, err := nbd.Handshake(ctx, nc, export)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return newConn(nc, nbdWire{}, int64(info.Size)), nil
}

func (nbdWire) ask(c *Conn, off int64, n int) error {
	b := binary.BigEndian.AppendUint32(c.w.AvailableBuffer(), 0x25609513)
	b = binary.BigEndian.AppendUint32(b, 0) // NBD_CMD_READ
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	_, err := c.w.Write(binary.BigEndian.AppendUint32(b, uint32(n)))
	return err
}

func (nbdWire) answer(c *Conn, n int) error {
	head, err := c.r.Peek(16)
	if err != nil {
		return err
	}
	if binary.BigEndian.Uint64(head) != 0x67446698<<32 {
		return fmt.Errorf("NBD: reply %x", head)
	}
	c.r.Discard(16)
	return c.skip(n)
}

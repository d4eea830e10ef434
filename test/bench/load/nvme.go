package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

var le = binary.LittleEndian

// nvmeWire reads as Linux does: without digests, with flow control, and so with a response after
// the data.
type nvmeWire struct{ id uint16 }

// Host is the admin connection of a controller, which its I/O connections end with.
type Host struct {
	*Conn
	address, nqn string
	controller   uint16
}

// Sizes and types of PDUs (NVMe/TCP transport specification, "PDU Header"), commands and fields
// (Base, "Fabrics Commands").
const (
	icSize      = 128
	commandHead = 72 // with its submission queue entry
	connectData = 1024

	pduICReq, pduICResp, pduCommand, pduResponse, pduData = 0, 1, 4, 5, 7

	inCapsule, byTransport = 0x01, 0x5a // types of data descriptors
	queueSize              = 128
)

// NVMe connects to a subsystem and enables its controller. Hosts are told apart by their number.
func NVMe(ctx context.Context, address, nqn string, host int) (*Host, error) {
	c, err := dialNVMe(ctx, address)
	if err != nil {
		return nil, err
	}
	h := &Host{Conn: c, address: address, nqn: nqn}
	id, err := c.connect(nqn, host, 0, 0xffff)
	if err == nil {
		h.controller = uint16(id)
		enable := command{0: 0x7f, 1: 0x40, 44: 0x14} // Property Set of CC
		le.PutUint32(enable[48:], 1|6<<16|4<<20)
		_, err = c.do(enable, nil)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return h, nil
}

// Queue makes an I/O connection to a disk of so many bytes.
func (h *Host) Queue(ctx context.Context, host, number int, size int64) (*Conn, error) {
	c, err := dialNVMe(ctx, h.address)
	if err != nil {
		return nil, err
	}
	if _, err := c.connect(h.nqn, host, uint16(number), h.controller); err != nil {
		c.Close()
		return nil, err
	}
	c.Blocks = size / block
	return c, nil
}

func dialNVMe(ctx context.Context, address string) (*Conn, error) {
	nc, err := Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	c := newConn(nc, &nvmeWire{}, 0)
	nc.SetDeadline(time.Now().Add(time.Minute))
	hello := [icSize]byte{0: pduICReq, 2: icSize, 4: icSize}
	if _, err := nc.Write(hello[:]); err != nil {
		nc.Close()
		return nil, err
	}
	if _, err := io.ReadFull(c.r, hello[:]); err != nil || hello[0] != pduICResp {
		nc.Close()
		return nil, fmt.Errorf("NVMe/TCP: answer to ICReq: %x, %w", hello[:8], err)
	}
	nc.SetDeadline(time.Time{})
	return c, nil
}

// command is a submission queue entry.
type command [64]byte

// connect makes the connection a queue, and returns the controller's number.
func (c *Conn) connect(nqn string, host int, queue, controller uint16) (uint64, error) {
	cmd := command{0: 0x7f, 1: 0x40, 4: 0x01, 39: inCapsule}
	le.PutUint32(cmd[32:], connectData)
	le.PutUint16(cmd[42:], queue)
	le.PutUint16(cmd[44:], queueSize-1)
	data := make([]byte, connectData)
	le.PutUint64(data, uint64(host)+1)
	le.PutUint16(data[16:], controller)
	copy(data[256:], nqn)
	copy(data[512:], fmt.Sprintf("nqn.2026-01.org.example:host-%d", host))
	return c.do(cmd, data)
}

// do sends a command that returns no data, and returns its result.
func (c *Conn) do(cmd command, data []byte) (uint64, error) {
	if err := c.send(&cmd, data); err != nil {
		return 0, err
	}
	if err := c.w.Flush(); err != nil {
		return 0, err
	}
	return c.response()
}

// send puts a command and its data into c.w. It is on the way of every read, so it allocates
// nothing.
func (c *Conn) send(cmd *command, data []byte) error {
	var offset byte
	if len(data) > 0 {
		offset = commandHead
	}
	b := append(c.w.AvailableBuffer(), pduCommand, 0, commandHead, offset)
	b = le.AppendUint32(b, uint32(commandHead+len(data)))
	if _, err := c.w.Write(append(b, cmd[:]...)); err != nil {
		return err
	}
	_, err := c.w.Write(data)
	return err
}

func (c *Conn) response() (uint64, error) {
	b, err := c.r.Peek(24)
	if err != nil {
		return 0, err
	}
	if status := le.Uint16(b[22:]); b[0] != pduResponse || status != 0 {
		return 0, fmt.Errorf("NVMe/TCP: PDU of type %d, status %#x", b[0], status>>1)
	}
	result := le.Uint64(b[8:])
	c.r.Discard(24)
	return result, nil
}

func (w *nvmeWire) ask(c *Conn, off int64, n int) error {
	w.id = (w.id + 1) % queueSize
	cmd := command{0: 0x02, 1: 0x40, 4: 1, 39: byTransport}
	le.PutUint16(cmd[2:], w.id)
	le.PutUint32(cmd[32:], uint32(n))
	le.PutUint64(cmd[40:], uint64(off)/512)
	le.PutUint16(cmd[48:], uint16(n/512-1))
	return c.send(&cmd, nil)
}

func (w *nvmeWire) answer(c *Conn, n int) error {
	for left := n; left > 0; {
		head, err := c.r.Peek(24)
		if err != nil {
			return err
		}
		begin, size := int(head[3]), int(le.Uint32(head[4:]))
		if head[0] != pduData || size-begin > left {
			return fmt.Errorf("NVMe/TCP: PDU of type %d and %d bytes", head[0], size)
		}
		c.r.Discard(begin)
		if err := c.skip(size - begin); err != nil {
			return err
		}
		left -= size - begin
	}
	_, err := c.response()
	return err
}

// ParseNVMe reads the options that "netroot serve --run" gives to "nvme connect".
func ParseNVMe(options string) (address, nqn string, err error) {
	f := strings.Fields(options)
	if len(f) != 8 || f[2] != "-a" || f[4] != "-s" || f[6] != "-n" {
		return "", "", fmt.Errorf("not options of nvme connect: %q", options)
	}
	return net.JoinHostPort(f[3], f[5]), f[7], nil
}

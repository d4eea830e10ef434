package iscsi

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"netroot/internal/prototest"
)

// client is an initiator in the full feature phase.
type client struct {
	conn net.Conn
	digests
	sn   uint32 // of the next command
	most uint32 // MaxCmdSN, as the target said last
}

func config(target string) LoginConfig {
	cfg := node
	cfg.Target = prefix + target
	be.PutUint32(cfg.ISID[2:], rand.Uint32())
	return cfg
}

func loginAs(t testing.TB, addr string, cfg LoginConfig) *client {
	t.Helper()
	conn := prototest.Dial(t, addr)
	s, err := Login(t.Context(), conn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(6 * patience))
	return &client{conn: conn, digests: digests{s.HeaderDigest, s.DataDigest}, sn: s.CmdSN}
}

// attach logs in to a target, as a session of its own.
func attach(t testing.TB, addr, target string) *client {
	t.Helper()
	return loginAs(t, addr, config(target))
}

func (c *client) send(h header) error {
	b := c.appendPDU(nil, &h, nil)
	c.seal(b)
	_, err := c.conn.Write(b)
	return err
}

func (c *client) ping(tag uint32) error {
	h := header{opNopOut | flagImmediate, flagFinal}
	be.PutUint32(h[16:], tag)
	be.PutUint32(h[20:], noTag)
	be.PutUint32(h[24:], c.sn)
	return c.send(h)
}

// read asks for blocks.
func (c *client) read(tag, lba, blocks uint32) error {
	h := header{opCommand, flagFinal | flagRead}
	be.PutUint32(h[16:], tag)
	be.PutUint32(h[20:], blocks*blockSize)
	be.PutUint32(h[24:], c.sn)
	h[32] = scsiRead12
	be.PutUint32(h[34:], lba)
	be.PutUint32(h[38:], blocks)
	c.sn++
	return c.send(h)
}

// manage sends an immediate task management request.
func (c *client) manage(tag uint32, function byte, about uint32) error {
	h := header{opTaskRequest | flagImmediate, flagFinal | function}
	be.PutUint32(h[16:], tag)
	be.PutUint32(h[20:], about)
	be.PutUint32(h[24:], c.sn)
	return c.send(h)
}

// next reads one PDU.
func (c *client) next() (header, []byte, error) {
	var h header
	data, err := c.digests.read(c.conn, &h, dataLengthMask)
	c.most = be.Uint32(h[32:])
	return h, data, err
}

// wants reads PDUs and returns the data of the first READ that ends well, by its tag.
func (c *client) wants(parts map[uint32][]byte) (tag uint32, data []byte, err error) {
	for {
		h, data, err := c.next()
		if err != nil {
			return 0, nil, err
		}
		if h.op() != opDataIn {
			return 0, nil, fmt.Errorf("PDU %#02x, status %d, % x", h.op(), h[3], data)
		}
		tag := h.tag()
		if at := be.Uint32(h[40:]); int(at) != len(parts[tag]) {
			return 0, nil, fmt.Errorf("data at %d, %d is next", at, len(parts[tag]))
		}
		parts[tag] = append(parts[tag], data...)
		if h[1]&flagStatus != 0 {
			return tag, parts[tag], nil
		}
	}
}

// mustRead reads blocks and waits for them.
func (c *client) mustRead(t *testing.T, blocks uint32) {
	t.Helper()
	if err := c.read(1, 0, blocks); err != nil {
		t.Fatal(err)
	}
	if _, data, err := c.wants(map[uint32][]byte{}); err != nil || len(data) != int(blocks)*blockSize {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
}

package nbd

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// Read reads len(p) bytes at off over a connection that Handshake has negotiated, and on which no
// other request is under way. It takes no byte more from the connection than the reply has. After
// an error the connection cannot be used any more.
func Read(ctx context.Context, conn net.Conn, p []byte, off int64) error {
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	b := be.AppendUint32(make([]byte, 0, requestHead), magicRequest)
	b = be.AppendUint32(b, uint32(cmdRead)) // after flags of 0
	b = be.AppendUint64(b, uint64(off))     // the cookie
	b = be.AppendUint64(b, uint64(off))
	b = be.AppendUint32(b, uint32(len(p)))
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("NBD read: %w", timedOut(err))
	}
	var head [simpleHead]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return fmt.Errorf("NBD read: %w", timedOut(err))
	}
	switch code := be.Uint32(head[4:]); {
	case be.Uint32(head[:]) != magicSimple || be.Uint64(head[8:]) != uint64(off):
		return fmt.Errorf("NBD read: the reply begins with %x", head)
	case code != 0:
		return fmt.Errorf("NBD read of %d bytes at %d: the server has error %d", len(p), off, code)
	}
	if _, err := io.ReadFull(conn, p); err != nil {
		return fmt.Errorf("NBD read: %w", timedOut(err))
	}
	return nil
}

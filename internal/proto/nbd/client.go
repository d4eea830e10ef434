package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net"
	"os"
	"time"
)

// Info is what a server said of the export that was attached.
type Info struct {
	Size  uint64 // bytes
	Flags uint16 // transmission flags, for NBD_ATTR_SERVER_FLAGS
	// Block sizes in bytes; the protocol's defaults (1, 4096, 32 MiB) where the server named none.
	MinBlock, PreferredBlock, MaxPayload uint32
}

const (
	maxReplies    = 64      // to one option, before the last
	maxReplyBytes = 8 << 10 // of one: a name or text of 4096 bytes, and room
)

// Handshake attaches the export of that name on a fresh connection to a server, and leaves the
// connection where the transmission begins: not a byte further, so that it can be handed to the
// Linux kernel (NBD_CMD_CONNECT). It negotiates simple replies only, since the kernel knows no
// others. With servers that lack NBD_OPT_GO it falls back to NBD_OPT_EXPORT_NAME.
//
// ctx bounds the time. The error wraps ErrUnknown, with the server's words, when it has no such
// export. After an error the connection cannot be used any more; the caller still has to close it.
func Handshake(ctx context.Context, conn net.Conn, export string) (Info, error) {
	if len(export) > maxString {
		return Info{}, fmt.Errorf("nbd handshake: export name of %d bytes, the protocol allows %d", len(export), maxString)
	}
	if err := ctx.Err(); err != nil {
		return Info{}, fmt.Errorf("nbd handshake: %w", err)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		conn.SetDeadline(time.Unix(1, 0)) // the past: ends what waits
		close(interrupted)
	})
	h := &handshake{conn: conn, export: export}
	info, err := h.run()
	if !stop() {
		<-interrupted
		if err != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		conn.SetDeadline(time.Time{})
	}
	if err != nil {
		return Info{}, fmt.Errorf("nbd handshake for export %q: %w", export, err)
	}
	return info, nil
}

type handshake struct {
	conn   net.Conn
	export string
	info   Info
}

// errNoGo says that the server does not know NBD_OPT_GO.
var errNoGo = errors.New("server does not know NBD_OPT_GO")

func (h *handshake) run() (Info, error) {
	h.info = Info{MinBlock: minBlock, PreferredBlock: preferBlock, MaxPayload: maxPayload}
	flags, err := h.greet()
	if err != nil {
		return Info{}, err
	}
	if flags&flagFixedNewstyle != 0 {
		err = h.goOption()
	} else {
		err = errNoGo
	}
	if errors.Is(err, errNoGo) {
		err = h.exportName(flags&flagNoZeroes != 0)
	}
	if err != nil {
		return Info{}, err
	}
	return h.info, h.info.check()
}

// check refuses what no caller could use.
func (i Info) check() error {
	switch {
	case i.Size > math.MaxInt64:
		return fmt.Errorf("server claims a size of %d bytes", i.Size)
	case i.Flags&FlagHasFlags == 0:
		return fmt.Errorf("server sent transmission flags %#04x without NBD_FLAG_HAS_FLAGS", i.Flags)
	case bits.OnesCount32(i.MinBlock) != 1 || i.MinBlock > 1<<16,
		bits.OnesCount32(i.PreferredBlock) != 1 || i.PreferredBlock < i.MinBlock,
		i.MaxPayload < i.PreferredBlock:
		return fmt.Errorf("server claims block sizes %d, %d, %d", i.MinBlock, i.PreferredBlock, i.MaxPayload)
	}
	return nil
}

// greet reads the server's greeting, answers it, and returns the server's flags.
func (h *handshake) greet() (uint16, error) {
	var b [18]byte
	if err := h.read(b[:8]); err != nil {
		return 0, fmt.Errorf("no greeting: %w", err)
	}
	if be.Uint64(b[:]) != magicInit {
		return 0, fmt.Errorf("not an NBD server: it begins with %q", b[:8])
	}
	if err := h.read(b[8:16]); err != nil {
		return 0, fmt.Errorf("greeting: %w", err)
	}
	switch m := be.Uint64(b[8:]); m {
	case magicOption:
	case magicOldstyle:
		return 0, errors.New("server speaks the oldstyle protocol, which has no export names")
	default:
		return 0, fmt.Errorf("unknown kind of NBD server: its second word is %#016x", m)
	}
	if err := h.read(b[16:]); err != nil {
		return 0, fmt.Errorf("greeting: %w", err)
	}
	flags := be.Uint16(b[16:]) & (flagFixedNewstyle | flagNoZeroes)
	return flags, h.write(be.AppendUint32(nil, uint32(flags)))
}

// goOption asks for the export by NBD_OPT_GO.
func (h *handshake) goOption() error {
	data := be.AppendUint32(nil, uint32(len(h.export)))
	data = append(data, h.export...)
	data = be.AppendUint16(data, 1)
	data = be.AppendUint16(data, infoBlockSize)
	if err := h.option(optGo, data); err != nil {
		return err
	}
	haveExport := false
	for range maxReplies {
		kind, data, err := h.reply(optGo)
		if err != nil {
			return err
		}
		switch {
		case kind == repAck && haveExport:
			return nil
		case kind == repAck:
			return errors.New("server accepts the export and does not say its size")
		case kind == repInfo:
			got, err := h.item(data)
			if err != nil {
				return err
			}
			haveExport = haveExport || got
		case kind&repError != 0:
			return refusal(kind, data)
		default:
			return fmt.Errorf("unknown reply %d to NBD_OPT_GO", kind)
		}
	}
	return fmt.Errorf("more than %d replies to NBD_OPT_GO", maxReplies)
}

// item takes one piece of information and reports whether it was the size and flags.
func (h *handshake) item(data []byte) (export bool, err error) {
	p := cursor{b: data}
	switch kind := p.u16(); kind {
	case infoExport:
		h.info.Size = uint64(p.u32())<<32 | uint64(p.u32())
		h.info.Flags = p.u16()
		export = true
	case infoBlockSize:
		h.info.MinBlock, h.info.PreferredBlock, h.info.MaxPayload = p.u32(), p.u32(), p.u32()
	default:
		p.b = nil // whatever it is
	}
	if !p.end() {
		return false, fmt.Errorf("malformed information of %d bytes", len(data))
	}
	return export, nil
}

// refusal turns an error reply into an error with the server's words.
func refusal(kind uint32, text []byte) error {
	var why error
	switch kind {
	case repErrUnsup:
		return errNoGo
	case repErrUnknown:
		why = ErrUnknown
	case repErrTLSReqd:
		why = errors.New("server demands TLS, which the kernel's client does not speak")
	case repErrPolicy:
		why = errors.New("server's policy forbids it")
	default:
		why = fmt.Errorf("server refuses with reply %#x", kind)
	}
	if len(text) == 0 {
		return why
	}
	return fmt.Errorf("%w; the server says: %q", why, clip(string(text)))
}

// exportName asks for the export as old servers know it: their only way to refuse is to hang up.
func (h *handshake) exportName(noZeroes bool) error {
	if err := h.option(optExportName, []byte(h.export)); err != nil {
		return err
	}
	n := exportNameHead
	if !noZeroes {
		n += exportNamePad
	}
	b := make([]byte, n)
	if err := h.read(b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w, probably: the server, an old one, closed the connection", ErrUnknown)
		}
		return err
	}
	h.info.Size, h.info.Flags = be.Uint64(b), be.Uint16(b[8:])
	return nil
}

// option sends one option in one write.
func (h *handshake) option(code uint32, data []byte) error {
	b := be.AppendUint64(nil, magicOption)
	b = be.AppendUint32(b, code)
	b = be.AppendUint32(b, uint32(len(data)))
	return h.write(append(b, data...))
}

// reply reads one reply to an option.
func (h *handshake) reply(option uint32) (kind uint32, data []byte, err error) {
	var head [replyHead]byte
	if err := h.read(head[:]); err != nil {
		return 0, nil, fmt.Errorf("reply: %w", err)
	}
	if m := be.Uint64(head[:]); m != magicReply {
		return 0, nil, fmt.Errorf("reply begins with %#016x, not with the protocol's magic", m)
	}
	if o := be.Uint32(head[8:]); o != option {
		return 0, nil, fmt.Errorf("reply to option %d, %d was asked", o, option)
	}
	n := be.Uint32(head[16:])
	if n > maxReplyBytes {
		return 0, nil, fmt.Errorf("reply of %d bytes", n)
	}
	data = make([]byte, n)
	if err := h.read(data); err != nil {
		return 0, nil, fmt.Errorf("reply: %w", err)
	}
	return be.Uint32(head[12:]), data, nil
}

// read fills b and takes no byte more from the connection.
func (h *handshake) read(b []byte) error {
	_, err := io.ReadFull(h.conn, b)
	return timedOut(err)
}

func (h *handshake) write(b []byte) error {
	_, err := h.conn.Write(b)
	return timedOut(err)
}

func timedOut(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("no answer in time")
	}
	return err
}

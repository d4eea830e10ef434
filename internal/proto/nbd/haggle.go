package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"netroot/internal/proto/accept"
)

// What a client may say before it has an export: qemu-img with metadata contexts needs six options
// and under 300 bytes.
const (
	maxOptions     = 128
	maxOptionBytes = 64 << 10
)

// option is one option of a client.
type option struct {
	code uint32
	data []byte
}

// haggle greets the client and answers its options. It reports whether the client has attached an
// export (c.export); false with no error means it went away in good order. An error is why it was
// refused.
func (c *conn) haggle(ctx context.Context) (attached bool, err error) {
	end := time.Now().Add(haggleTimeout)
	c.SetReadDeadline(time.Now().Add(accept.FirstRequest))
	flags, err := c.greet()
	if err != nil {
		return false, err
	}
	left := maxOptionBytes
	for range maxOptions {
		deadline := time.Now().Add(accept.FirstRequest)
		if deadline.After(end) {
			deadline = end
		}
		c.SetReadDeadline(deadline)
		o, err := c.readOption(&left)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if err := c.allowed(o, flags); err != nil {
			return false, err
		}
		done, err := c.answer(ctx, o, flags)
		if err != nil {
			return false, err
		}
		if done {
			c.SetReadDeadline(time.Time{})
			return c.export != nil, nil
		}
	}
	return false, fmt.Errorf("more than %d options", maxOptions)
}

// greet says hello and returns the client's flags.
func (c *conn) greet() (uint32, error) {
	var hello []byte
	hello = be.AppendUint64(hello, magicInit)
	hello = be.AppendUint64(hello, magicOption)
	hello = be.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if err := c.write(hello); err != nil {
		return 0, fmt.Errorf("greeting: %w", err)
	}
	var b [4]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return 0, fmt.Errorf("client flags: %w", err)
	}
	flags := be.Uint32(b[:])
	if flags&^uint32(flagFixedNewstyle|flagNoZeroes) != 0 {
		return 0, fmt.Errorf("client sets flags %#x that were not offered: no NBD client, or a newer one", flags)
	}
	return flags, nil
}

// readOption reads one option and takes its size from left. io.EOF means that the client went
// instead.
func (c *conn) readOption(left *int) (option, error) {
	var head [optionHead]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		if err != io.EOF { // io.EOF alone is a client that leaves between options
			err = fmt.Errorf("option header: %w", notEOF(err))
		}
		return option{}, err
	}
	if m := be.Uint64(head[:]); m != magicOption {
		return option{}, fmt.Errorf("option begins with %#016x, not with IHAVEOPT", m)
	}
	o := option{code: be.Uint32(head[8:])}
	n := be.Uint32(head[12:])
	if int64(n)+optionHead > int64(*left) {
		return o, fmt.Errorf("option %d of %d bytes: more than %d bytes of options", o.code, n, maxOptionBytes)
	}
	*left -= int(n) + optionHead
	o.data = make([]byte, n)
	if _, err := io.ReadFull(c.r, o.data); err != nil {
		return o, fmt.Errorf("option %d: %w", o.code, notEOF(err))
	}
	return o, nil
}

// notEOF makes a stream's end inside a message an error of its own.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// allowed refuses what can only be answered by closing the connection.
func (c *conn) allowed(o option, flags uint32) error {
	if o.code != optExportName {
		if flags&uint32(flagFixedNewstyle) == 0 {
			return fmt.Errorf("option %d from a client without fixed newstyle", o.code)
		}
		return nil
	}
	if c.srv.RequireTLS && !c.tls {
		return errors.New("EXPORT_NAME without TLS, which is required here")
	}
	return nil
}

// answer answers one option. done says that the haggling is over.
func (c *conn) answer(ctx context.Context, o option, flags uint32) (done bool, err error) {
	if o.code == optExportName {
		return true, c.exportName(ctx, string(o.data), flags)
	}
	if c.srv.RequireTLS && !c.tls && o.code != optStartTLS && o.code != optAbort {
		c.refused(errors.New("no TLS, which is required here"))
		return false, c.reply(o, repErrTLSReqd, "TLS is required here")
	}
	switch o.code {
	case optAbort:
		c.reply(o, repAck, "") // it may be gone already
		c.forget()
		return true, nil
	case optList:
		return false, c.list(ctx, o)
	case optStartTLS:
		return false, c.startTLS(ctx, o)
	case optInfo, optGo:
		return c.info(ctx, o)
	case optStructured:
		if len(o.data) != 0 {
			return false, c.reply(o, repErrInvalid, "this option has no data")
		}
		c.structured = true
		return false, c.reply(o, repAck, "")
	case optListContext, optSetContext:
		return false, c.metaContext(ctx, o)
	}
	return false, c.reply(o, repErrUnsup, "this server does not know the option")
}

// reply sends the final reply to an option; text is for errors.
func (c *conn) reply(o option, kind uint32, text string) error {
	return c.send(appendReply(nil, o.code, kind, []byte(clip(text))))
}

func (c *conn) send(b []byte) error {
	if err := c.write(b); err != nil {
		return fmt.Errorf("option reply: %w", err)
	}
	return nil
}

// write gives the client its time from now on: a lookup before it may have taken long.
func (c *conn) write(b []byte) error {
	c.SetWriteDeadline(time.Now().Add(accept.FirstRequest))
	_, err := c.nc.Write(b)
	return err
}

// clip cuts a text to the protocol's limit, at a character.
func clip(s string) string {
	if len(s) > maxString {
		s = strings.ToValidUTF8(s[:maxString], "")
	}
	return s
}

// lookup makes c.export the export of that name. It keeps the last one: clients ask for metadata
// contexts, INFO and GO of the same name in a row and must hear the same.
func (c *conn) lookup(ctx context.Context, name string) error {
	if c.export != nil && c.name == name {
		return nil
	}
	c.forget()
	if len(name) > maxString {
		return fmt.Errorf("%w: a name of %d bytes", ErrUnknown, len(name))
	}
	e, err := c.srv.Lookup(ctx, name)
	if err == nil && e == nil {
		err = ErrUnknown
	}
	if err != nil {
		return err
	}
	c.name, c.export, c.size = name, e, e.Backend.Size()
	if c.size < 0 {
		c.forget()
		return fmt.Errorf("backend has a size of %d bytes", c.size)
	}
	return nil
}

// forget releases the export, if there is one.
func (c *conn) forget() {
	if e := c.export; e != nil {
		c.export = nil
		e.release()
	}
}

// refused logs why an option is refused: once, though clients ask for INFO, a context and GO of one
// name in a row.
func (c *conn) refused(why error) {
	if text := why.Error(); text != c.told {
		c.told = text
		c.Refused(why)
	}
}

// unknown answers an option that names an export that cannot be had, and logs it.
func (c *conn) unknown(o option, name string, err error) error {
	c.refused(fmt.Errorf("export %q: %w", clip(name), err))
	text := err.Error()
	if !errors.Is(err, ErrUnknown) {
		text = "the export cannot be opened, the server's log says why"
	}
	return c.reply(o, repErrUnknown, text)
}

// exportName answers the option of old clients, which knows no error but closing the connection.
func (c *conn) exportName(ctx context.Context, name string, flags uint32) error {
	if err := c.lookup(ctx, name); err != nil {
		return fmt.Errorf("export %q: %w", clip(name), err)
	}
	b := be.AppendUint64(nil, uint64(c.size))
	b = be.AppendUint16(b, c.transmissionFlags())
	if flags&uint32(flagNoZeroes) == 0 {
		b = append(b, make([]byte, exportNamePad)...)
	}
	return c.send(b)
}

func (c *conn) transmissionFlags() uint16 {
	f := FlagHasFlags | FlagReadOnly | FlagCanMultiConn | FlagSendCache
	if c.structured {
		f |= FlagSendDF
	}
	return f
}

// info answers INFO and GO; done after a GO that succeeded.
func (c *conn) info(ctx context.Context, o option) (done bool, err error) {
	p := cursor{b: o.data}
	name := p.str()
	wanted := make(map[uint16]bool)
	for range p.u16() {
		wanted[p.u16()] = true
	}
	if !p.end() {
		return false, c.reply(o, repErrInvalid, "malformed request for information")
	}
	if err := c.lookup(ctx, name); err != nil {
		return false, c.unknown(o, name, err)
	}
	item := be.AppendUint16(nil, infoExport)
	item = be.AppendUint64(item, uint64(c.size))
	item = be.AppendUint16(item, c.transmissionFlags())
	b := appendReply(nil, o.code, repInfo, item)
	if wanted[infoBlockSize] {
		item = be.AppendUint16(item[:0], infoBlockSize)
		item = be.AppendUint32(item, minBlock)
		item = be.AppendUint32(item, preferBlock)
		item = be.AppendUint32(item, maxPayload)
		b = appendReply(b, o.code, repInfo, item)
	}
	if wanted[infoName] {
		item = append(be.AppendUint16(item[:0], infoName), clip(c.export.Name)...)
		b = appendReply(b, o.code, repInfo, item)
	}
	if wanted[infoDescription] && c.export.Description != "" {
		item = append(be.AppendUint16(item[:0], infoDescription), clip(c.export.Description)...)
		b = appendReply(b, o.code, repInfo, item)
	}
	return o.code == optGo, c.send(appendReply(b, o.code, repAck, nil))
}

// list answers LIST: one reply for each export.
func (c *conn) list(ctx context.Context, o option) error {
	if len(o.data) != 0 {
		return c.reply(o, repErrInvalid, "this option has no data")
	}
	if c.srv.List == nil {
		return c.reply(o, repErrPolicy, "this server does not list its exports")
	}
	all, err := c.srv.List(ctx)
	if err != nil {
		c.refused(fmt.Errorf("list of exports: %w", err))
		return c.reply(o, repErrPolicy, "the exports cannot be listed, the server's log says why")
	}
	var b []byte
	for _, e := range all {
		name := clip(e.Name)
		item := be.AppendUint32(nil, uint32(len(name)))
		item = append(item, name...)
		item = append(item, clip(e.Description)...)
		b = appendReply(b, o.code, repServer, item)
	}
	return c.send(appendReply(b, o.code, repAck, nil))
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT. There is one context,
// base:allocation.
func (c *conn) metaContext(ctx context.Context, o option) error {
	set := o.code == optSetContext
	if set {
		c.context = nil // whatever happens now
	}
	p := cursor{b: o.data}
	name := p.str()
	queries := p.u32()
	match := queries == 0 && !set
	for i := uint32(0); i < queries && !p.bad; i++ {
		q := p.str()
		match = match || q == contextAllocation || q == "base:" && !set
	}
	if !p.end() {
		return c.reply(o, repErrInvalid, "malformed request for metadata contexts")
	}
	if !c.structured {
		return c.reply(o, repErrInvalid, "metadata contexts need structured replies")
	}
	if err := c.lookup(ctx, name); err != nil {
		return c.unknown(o, name, err)
	}
	var b []byte
	if match {
		id := uint32(0) // has no meaning in a list
		if set {
			id = contextAllocationID
			c.context = &name
		}
		b = appendReply(b, o.code, repContext, append(be.AppendUint32(nil, id), contextAllocation...))
	}
	return c.send(appendReply(b, o.code, repAck, nil))
}

// startTLS turns the connection into a TLS one. What was agreed before is void.
func (c *conn) startTLS(ctx context.Context, o option) error {
	switch {
	case c.srv.TLS == nil:
		return c.reply(o, repErrUnsup, "this server has no TLS")
	case c.tls:
		return c.reply(o, repErrInvalid, "TLS is in use already")
	case len(o.data) != 0:
		return c.reply(o, repErrInvalid, "this option has no data")
	case c.r.Buffered() > 0:
		// Read before the handshake, it would count as said under TLS: a way to slip options in.
		return errors.New("plain text behind STARTTLS")
	}
	if err := c.reply(o, repAck, ""); err != nil {
		return err
	}
	c.SetDeadline(time.Now().Add(accept.FirstRequest))
	t := tls.Server(c.Conn, c.srv.TLS)
	if err := t.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	c.forget()
	c.nc, c.tls = t, true
	c.structured, c.context = false, nil
	c.r = bufio.NewReaderSize(t, readAhead)
	return nil
}

package iscsi

import (
	"context"
	"fmt"
	"strings"
)

// exchange is a text request and its response, as far as they went (RFC 7143 §11.10).
type exchange struct {
	open bool
	in   []byte
	out  []byte
}

const exchangeTag = 1 // there is one at a time

// negotiateText takes one PDU of a text exchange and answers with one.
func (c *conn) negotiateText(ctx context.Context, h *header, data []byte) error {
	x := &c.text
	switch h.transferTag() {
	case noTag:
		*x = exchange{}
	case exchangeTag:
		if !x.open {
			return c.reject(h, rejectField)
		}
	default:
		return c.reject(h, rejectField)
	}
	if x.in = append(x.in, data...); len(x.in) > maxText {
		*x = exchange{}
		return c.reject(h, rejectProtocol)
	}
	goesOn := h[1]&flagContinue != 0
	if len(x.out) == 0 && !goesOn {
		in, err := parseText(x.in)
		if err != nil {
			*x = exchange{}
			return c.reject(h, rejectProtocol)
		}
		x.in = nil
		if x.out, err = c.answerText(ctx, in); err != nil {
			return err
		}
	}
	return c.replyText(h, goesOn)
}

// replyText sends the next part of the response, or nothing while the request goes on.
func (c *conn) replyText(h *header, goesOn bool) error {
	x := &c.text
	var part []byte
	if !goesOn {
		n := min(len(x.out), int(c.maxSend.Load()))
		part, x.out = x.out[:n], x.out[n:]
	}
	r := answer(opTextResponse, h)
	copy(r[8:16], h[8:16])
	be.PutUint32(r[20:], exchangeTag)
	switch x.open = true; {
	case len(x.out) > 0:
		r[1] = flagContinue
	case goesOn || !h.final():
		r[1] = 0
	default:
		*x = exchange{}
		be.PutUint32(r[20:], noTag)
	}
	return c.reply(&r, part)
}

// answerText answers the keys of the full feature phase (§13): what targets there are, and
// declarations.
func (c *conn) answerText(ctx context.Context, in text) ([]byte, error) {
	var out text
	var targets []byte
	for _, p := range in {
		switch p.key {
		case keySendTargets:
			var err error
			if targets, err = c.sendTargets(ctx, p.value); err != nil {
				return nil, err
			}
		case keyMaxReceive:
			if n, err := receiveLength.parse(p.value); err == nil {
				c.maxSend.Store(n &^ 3)
			} else {
				out.add(p.key, valueReject)
			}
		case keyInitiatorAlias:
		default:
			t := newTerms()
			if a := t.answer(p); a == valueNotUnderstood {
				out.add(p.key, a)
			} else {
				out.add(p.key, valueReject) // settled at login
			}
		}
	}
	return append(out.encode(), targets...), nil
}

// sendTargets lists targets (Appendix C). In a session with a target there is that one only.
func (c *conn) sendTargets(ctx context.Context, which string) ([]byte, error) {
	var names []string
	if c.target != nil {
		if which == "" || which == c.target.Name {
			names = []string{c.target.Name}
		}
	} else {
		all, err := c.srv.List(ctx)
		if err != nil {
			return nil, fmt.Errorf("list of targets: %w", err)
		}
		for _, t := range all {
			if which == sendAll || which == t.Name {
				names = append(names, t.Name)
			}
		}
	}
	if which == sendAll && c.target != nil {
		return text{{keySendTargets, valueReject}}.encode(), nil
	}
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s=%s\x00%s=%s,%d\x00", keyTargetName, name, keyTargetAddress, c.LocalAddr(), portalGroup)
	}
	return []byte(b.String()), nil
}

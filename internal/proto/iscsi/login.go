package iscsi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"netroot/internal/proto/accept"
)

// Stages of a connection (RFC 7143 §11.12.3).
const (
	stageSecurity    byte = 0
	stageOperational byte = 1
	stageFull        byte = 3
)

const maxLoginPDUs = 64

// login is the target's side of a login phase (RFC 7143 §6, §11.12).
type login struct {
	c      *conn
	closed error // why every login is refused
	h      header
	first  header // of the first request, which the others must agree with
	begun  bool
	stage  byte
	text   []byte // of a request that goes on
	terms  terms
	out    text
	told   bool // the portal group

	method   string // of authentication, when it is chosen
	asked    challenge
	proven   bool // the initiator is authenticated, or need not be
	declared bool // our MaxRecvDataSegmentLength
}

func newLogin(c *conn) *login { return &login{c: c, terms: newTerms()} }

// run talks until the connection is in the full feature phase. An error has been told to the
// initiator where the protocol has a status for it.
func (l *login) run(ctx context.Context) error {
	end := time.Now().Add(loginTimeout)
	for range maxLoginPDUs {
		next := time.Now().Add(accept.FirstRequest)
		if next.After(end) {
			next = end
		}
		l.c.SetReadDeadline(next)
		data, err := digests{}.read(l.c.r, &l.h, maxReceive)
		if err != nil {
			return fmt.Errorf("login: %w", timedOut(err))
		}
		done, err := l.step(ctx, data)
		var r *refusal
		if errors.As(err, &r) {
			l.refuse(r.status)
		}
		if done || err != nil {
			l.c.SetReadDeadline(time.Time{})
			return err
		}
	}
	return fmt.Errorf("login takes more than %d requests", maxLoginPDUs)
}

// step answers one request, and reports whether it was the last.
func (l *login) step(ctx context.Context, data []byte) (done bool, err error) {
	if err := l.check(); err != nil {
		return false, err
	}
	if l.text = append(l.text, data...); len(l.text) > maxText {
		return false, refuse(StatusInitiatorError, "login text of more than %d bytes", maxText)
	}
	l.out = nil
	if l.h[1]&flagContinue != 0 {
		if l.h.final() {
			return false, refuse(StatusInitiatorError, "login request that goes on and ends its stage")
		}
		return false, l.respond(0)
	}
	in, err := parseText(l.text)
	if err != nil {
		return false, refuse(StatusInitiatorError, "login text: %w", err)
	}
	l.text = nil
	if !l.begun {
		if err := l.begin(ctx, in); err != nil {
			return false, err
		}
	}
	if err := l.negotiate(in); err != nil {
		return false, err
	}
	return l.move()
}

// check holds a request against the protocol and against the first one.
func (l *login) check() error {
	h, stage := &l.h, l.h[1]>>2&3
	switch {
	case h.op() != opLoginRequest:
		return refuse(StatusInvalid, "PDU %#02x during login", h.op())
	case h[3] > 0: // the least version that the initiator speaks
		return refuse(StatusVersion, "initiator speaks version %d and later", h[3])
	case l.first == (header{}): // this is it
		l.first, l.stage = *h, stage
		l.c.expCmdSN.Store(h.cmdSN())
		l.c.maxCmdSN.Store(h.cmdSN() + window - 1)
		if stage != stageSecurity && stage != stageOperational {
			return refuse(StatusInitiatorError, "login begins in stage %d", stage)
		}
		return l.closed
	case stage != l.stage || string(h[8:20]) != string(l.first[8:20]) || string(h[20:22]) != string(l.first[20:22]):
		return refuse(StatusInvalid, "login request that does not fit the one before")
	}
	return nil
}

// begin takes the names of initiator and target.
func (l *login) begin(ctx context.Context, in text) error {
	l.begun = true
	c := l.c
	name, ok := in.get(keyInitiatorName)
	if !ok {
		return refuse(StatusMissing, "no InitiatorName")
	}
	if err := checkName(name); err != nil {
		return refuse(StatusInitiatorError, "InitiatorName: %w", err)
	}
	c.initiator = name
	copy(c.isid[:], l.first[8:])
	c.cid = be.Uint16(l.first[20:])
	switch kind, _ := in.get(keySessionType); kind {
	case sessionListing:
		if c.srv.List == nil {
			return refuse(StatusSessionType, "no discovery here")
		}
	case sessionNormal, "":
		target, ok := in.get(keyTargetName)
		if !ok {
			return refuse(StatusMissing, "no TargetName")
		}
		if err := l.lookup(ctx, target); err != nil {
			return err
		}
	default:
		return refuse(StatusSessionType, "session type %q", clip(kind))
	}
	return l.rejoin(be.Uint16(l.first[14:]))
}

// rejoin takes a login with a session handle: a connection for a session that is there. Each has
// one, so it can only be that one once more (§6.3.4), and the session goes on as after a login
// without a handle.
func (l *login) rejoin(tsih uint16) error {
	if tsih == 0 {
		return nil
	}
	s := l.c.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.sessions[tsih]
	switch {
	case old == nil || !old.sameSession(l.c):
		return refuse(StatusNoSession, "session %d does not exist", tsih)
	case old.cid != l.c.cid:
		return refuse(StatusTooManyConns, "a second connection for session %d", tsih)
	}
	l.c.tsih = tsih
	return nil
}

// lookup opens the target.
func (l *login) lookup(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return refuse(StatusNotFound, "TargetName: %w", err)
	}
	t, err := l.c.srv.Lookup(ctx, name)
	switch {
	case errors.Is(err, ErrUnknown):
		return refuse(StatusNotFound, "target %q: %w", name, err)
	case err != nil:
		return refuse(StatusTargetError, "target %q: %w", name, err)
	case t == nil:
		return refuse(StatusNotFound, "target %q: %w", name, ErrUnknown)
	}
	l.c.target = t
	if l.c.disk, err = newDisk(t); err != nil {
		return refuse(StatusTargetError, "target %q: %w", name, err)
	}
	if err := t.CHAP.check(); err != nil {
		return refuse(StatusTargetError, "target %q: %w", name, err)
	}
	return nil
}

// required is what the initiator must prove, nil for nothing.
func (l *login) required() *CHAP {
	if l.c.target == nil {
		return nil
	}
	return l.c.target.CHAP
}

// negotiate answers the keys of a request.
func (l *login) negotiate(in text) error {
	if l.stage == stageSecurity {
		if err := l.authenticate(in); err != nil {
			return err
		}
	} else if l.required() != nil && !l.proven {
		return refuse(StatusAuthFailed, "%w: the initiator skips it", ErrDenied)
	}
	for _, p := range in {
		switch p.key {
		case keyInitiatorName, keyTargetName, keySessionType:
			continue
		case keyAuth, keyAlgorithm, keyID, keyChallenge, keyName, keyResponse:
			if l.stage == stageSecurity {
				continue
			}
			l.out.add(p.key, valueReject)
			continue
		}
		if a := l.terms.answer(p); a != "" {
			l.out.add(p.key, a)
		}
	}
	if !l.told && l.c.target != nil {
		l.told = true
		l.out.add(keyPortalGroup, fmt.Sprint(portalGroup))
		if alias := l.c.target.Description; alias != "" {
			l.out.add(keyTargetAlias, clip(strings.ReplaceAll(alias, "\x00", " ")))
		}
	}
	if l.stage == stageOperational && !l.declared {
		l.declared = true
		l.out = append(l.out, receiveLength.offer(maxReceive))
	}
	return nil
}

// authenticate answers the keys of the security stage.
func (l *login) authenticate(in text) error {
	if offer, ok := in.get(keyAuth); ok {
		if err := l.chooseMethod(strings.Split(offer, ",")); err != nil {
			return err
		}
	}
	if list, ok := in.get(keyAlgorithm); ok && l.method == methodCHAP && l.asked.algorithm == "" {
		a := chapAlgorithm(list)
		if a == "" {
			return refuse(StatusAuthFailed, "%w: none of the CHAP algorithms %q is known", ErrDenied, clip(list))
		}
		l.asked = newChallenge(a)
		l.out.add(keyAlgorithm, a)
		l.asked.ask(&l.out)
	}
	if in.has(keyResponse) && l.asked.algorithm != "" && !l.proven {
		return l.verify(in, l.required())
	}
	return nil
}

func (l *login) chooseMethod(offers []string) error {
	if l.method != "" {
		return refuse(StatusInitiatorError, "AuthMethod twice")
	}
	l.method = valueNone
	if l.required() != nil {
		l.method = methodCHAP
	}
	if !slices.Contains(offers, l.method) {
		return refuse(StatusAuthFailed, "%w: this target asks for %s, the initiator offers %q", ErrDenied, l.method, clip(strings.Join(offers, ",")))
	}
	l.out.add(keyAuth, l.method)
	return nil
}

// verify checks the initiator's response and, when asked, authenticates the target.
func (l *login) verify(in text, account *CHAP) error {
	if err := l.asked.check(in, account.Name, account.Secret); err != nil {
		return refuse(StatusAuthFailed, "%w", err)
	}
	l.proven = true
	if !in.has(keyChallenge) {
		return nil
	}
	theirs, err := asked(l.asked.algorithm, in)
	switch {
	case err != nil:
		return refuse(StatusInitiatorError, "%w", err)
	case account.PeerSecret == "":
		return refuse(StatusAuthFailed, "%w: the initiator asks for the target's secret, and none is set", ErrDenied)
	case string(theirs.bytes) == string(l.asked.bytes): // reflected, §9.2.1
		return refuse(StatusAuthFailed, "%w: the initiator sends our challenge back", ErrDenied)
	}
	theirs.answer(&l.out, account.PeerName, account.PeerSecret)
	return nil
}

// move goes on to the stage that the request asks for, if it does and may.
func (l *login) move() (done bool, err error) {
	if !l.h.final() || l.stage == stageSecurity && l.required() != nil && !l.proven {
		return false, l.respond(0)
	}
	next := l.h[1] & 3
	if next <= l.stage || next != stageOperational && next != stageFull {
		return false, refuse(StatusInitiatorError, "login from stage %d to %d", l.stage, next)
	}
	if next == stageFull {
		if err := l.c.srv.enter(l.c); err != nil {
			return false, err
		}
	}
	if err := l.respond(flagFinal | next); err != nil {
		return false, err
	}
	l.stage = next
	if next == stageFull {
		l.c.agree(l.terms)
	}
	return next == stageFull, nil
}

// respond sends what was gathered, in one PDU: parseText's bound on keys keeps it that small.
func (l *login) respond(flags byte) error {
	return l.send(StatusOK, flags|l.stage<<2, l.out.encode())
}

func (l *login) refuse(s Status) { l.send(s, 0, nil) } // if that fails, so be it

func (l *login) send(s Status, flags byte, data []byte) error {
	h := header{opLoginResponse, flags}
	copy(h[8:20], l.h[8:20]) // ISID, TSIH, task tag
	if l.c.tsih != 0 {
		be.PutUint16(h[14:], l.c.tsih)
	}
	be.PutUint16(h[36:], uint16(s))
	return l.c.send(digests{}.appendPDU(nil, &h, data), nil, false)
}

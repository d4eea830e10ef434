package iscsi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// LoginConfig has the names of initiator and target, and what the initiator offers.
type LoginConfig struct {
	Initiator string // iSCSI name of this machine
	Target    string // iSCSI name of the disk
	// ISID tells sessions of one initiator apart. A login with the same names and ISID takes the
	// place of the session before it, for a machine that lost its connection.
	ISID [6]byte
	// CHAP, when set, is what this end can prove. With PeerSecret the target must prove itself too.
	CHAP *CHAP
	// Ask for CRC32C digests; a target that has none gets its way.
	HeaderDigest, DataDigest bool
	MaxReceive               uint32 // bytes of data in one PDU from the target; 0: 256 KiB
	// Sent is how many commands were sent in the session before, by an initiator that goes on with
	// their numbers in this one, as the Linux kernel does.
	Sent uint32
}

// Session is what a login agreed on, by the names of RFC 7143 §13, in bytes. It is all that the
// Linux kernel requires of a connection that it takes over (include/scsi/iscsi_if.h).
type Session struct {
	TSIH        uint16
	PortalGroup uint16
	TargetAlias string // for people; may be empty
	CmdSN       uint32 // of the first command: CREATE_SESSION's initial_cmdsn
	ExpStatSN   uint32 // of the first response

	HeaderDigest, DataDigest  bool
	MaxReceive                uint32 // MaxRecvDataSegmentLength of this end,
	MaxSend                   uint32 // and of the target
	MaxBurst, FirstBurst      uint32
	MaxR2T                    uint32
	InitialR2T, ImmediateData bool
	PDUInOrder, SeqInOrder    bool
	ErrorRecovery             uint32
	TimeToWait, TimeToRetain  uint32 // seconds
}

// LoginError is a target's refusal.
type LoginError struct {
	Status  Status
	Address string // where the target is, host:port[,group], with StatusMoved and StatusMovedForGood
}

func (e *LoginError) Error() string {
	if e.Address != "" {
		return fmt.Sprintf("the target says: %v, to %s", e.Status, clip(e.Address))
	}
	return fmt.Sprintf("the target says: %v", e.Status)
}

// Is makes a refusal ErrUnknown or ErrDenied where it means that.
func (e *LoginError) Is(target error) bool {
	switch e.Status {
	case StatusNotFound, StatusRemoved:
		return target == ErrUnknown
	case StatusAuthFailed, StatusForbidden:
		return target == ErrDenied
	}
	return false
}

const (
	firstCmdSN     = 1
	maxLoginRounds = 32
)

// Login logs in on a fresh connection to a target portal, and leaves the connection where the full
// feature phase begins: not a byte further, so that it can be handed to the Linux kernel.
//
// Each request is one Write, and nothing is asked of a response's task tag. So conn may as well be
// the kernel's own way to log in (ISCSI_UEVENT_SEND_PDU and ISCSI_KEVENT_RECV_PDU around a bound
// socket), which numbers requests itself: a session that the kernel takes up again after a loss
// needs that, since its next command has a number that only the kernel knows.
//
// ctx bounds the time. The error wraps a *LoginError when the target refuses, which is ErrUnknown
// or ErrDenied where it says that; and ErrDenied when the target does not prove itself. After an
// error the connection cannot be used any more; the caller still has to close it.
func Login(ctx context.Context, conn net.Conn, cfg LoginConfig) (Session, error) {
	l := newInitiator(conn, cfg)
	err := errors.Join(ctx.Err(), checkName(cfg.Initiator), checkName(cfg.Target), cfg.CHAP.check())
	if err == nil {
		err = l.within(ctx)
	}
	if err != nil {
		return Session{}, fmt.Errorf("iscsi login to target %q: %w", clip(cfg.Target), err)
	}
	return l.s, nil
}

// initiator is the initiator's side of a login.
type initiator struct {
	conn   net.Conn
	cfg    LoginConfig
	s      Session
	stage  byte
	h      header // of the last response
	rounds int
	known  bool // s.ExpStatSN
}

func newInitiator(conn net.Conn, cfg LoginConfig) *initiator {
	if cfg.MaxReceive == 0 {
		cfg.MaxReceive = defaultReceiveLength
	}
	cfg.MaxReceive = min(max(cfg.MaxReceive, receiveLength.low), receiveLength.high)
	return &initiator{conn: conn, cfg: cfg, s: Session{
		CmdSN: firstCmdSN + cfg.Sent, MaxReceive: cfg.MaxReceive,
		// These hold for keys that the target does not answer (§13).
		MaxSend: receiveLength.standard, MaxBurst: burstLength.standard, FirstBurst: firstBurstLength.standard,
		MaxR2T: maxOutstandingR2T.standard, TimeToWait: timeToWait.standard, TimeToRetain: timeToRetain.standard,
		InitialR2T: true, ImmediateData: true, PDUInOrder: true, SeqInOrder: true,
	}}
}

// within runs until ctx ends.
func (l *initiator) within(ctx context.Context) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		l.conn.SetDeadline(time.Unix(1, 0)) // the past: ends what waits
		close(interrupted)
	})
	err := l.run()
	if !stop() {
		<-interrupted
		if err != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		l.conn.SetDeadline(time.Time{})
	}
	return err
}

func (l *initiator) run() error {
	if err := l.security(); err != nil {
		return err
	}
	return l.operational()
}

// security authenticates both sides.
func (l *initiator) security() error {
	c := l.cfg.CHAP
	methods := valueNone
	switch {
	case c != nil && c.PeerSecret != "":
		methods = methodCHAP
	case c != nil:
		methods = methodCHAP + "," + valueNone
	}
	in, err := l.round(text{{keyInitiatorName, l.cfg.Initiator}, {keySessionType, sessionNormal},
		{keyTargetName, l.cfg.Target}, {keyAuth, methods}}, c == nil, stageOperational)
	if err != nil {
		return err
	}
	method, _ := in.get(keyAuth)
	if method == methodCHAP && c != nil {
		return l.prove(c)
	}
	if c != nil && c.PeerSecret != "" {
		return fmt.Errorf("%w: the target does not authenticate itself", ErrDenied)
	}
	if method != "" && method != valueNone {
		return fmt.Errorf("target chose AuthMethod %q, %s was offered", clip(method), methods)
	}
	for l.stage == stageSecurity {
		if _, err := l.round(nil, true, stageOperational); err != nil {
			return err
		}
	}
	return nil
}

// prove goes through CHAP.
func (l *initiator) prove(c *CHAP) error {
	// MD5 comes first for tgtd, which takes 7 for SHA-1; targets with an order of their own, as
	// ours, do not care.
	in, err := l.round(text{{keyAlgorithm, chapMD5 + "," + chapSHA256}}, false, 0)
	if err != nil {
		return err
	}
	algorithm, _ := in.get(keyAlgorithm)
	if algorithm != chapSHA256 && algorithm != chapMD5 {
		return fmt.Errorf("target chose CHAP algorithm %q", clip(algorithm))
	}
	theirs, err := asked(algorithm, in)
	if err != nil {
		return err
	}
	var out text
	theirs.answer(&out, c.Name, c.Secret)
	ours := newChallenge(algorithm)
	if c.PeerSecret != "" {
		ours.ask(&out)
	}
	if in, err = l.round(out, true, stageOperational); err != nil {
		return err
	}
	if c.PeerSecret != "" {
		if err := ours.check(in, c.PeerName, c.PeerSecret); err != nil {
			return fmt.Errorf("target: %w", err)
		}
	}
	if l.stage == stageSecurity {
		return errors.New("target does not end the security stage after CHAP")
	}
	return nil
}

// operational offers what is left to agree on, and takes the answers.
func (l *initiator) operational() error {
	digest := func(want bool) string {
		if want {
			return digestCRC32C + "," + valueNone
		}
		return valueNone
	}
	out := text{
		{keyHeaderDigest, digest(l.cfg.HeaderDigest)}, {keyDataDigest, digest(l.cfg.DataDigest)},
		maxConnections.offer(offerConnections), recoveryLevel.offer(offerRecovery),
		timeToWait.offer(offerTimeToWait), timeToRetain.offer(offerTimeToRetain),
		{keyInitialR2T, valueYes}, {keyImmediateData, valueYes}, maxOutstandingR2T.offer(offerR2T),
		{keyPDUInOrder, valueYes}, {keySeqInOrder, valueYes},
		receiveLength.offer(l.cfg.MaxReceive), burstLength.offer(offerBurst), firstBurstLength.offer(offerFirstBurst),
	}
	for l.stage != stageFull {
		in, err := l.round(out, true, stageFull)
		if err != nil {
			return err
		}
		out = nil
		for _, p := range in {
			answer, err := l.take(p)
			if err != nil {
				return fmt.Errorf("target answers %s=%s: %w", p.key, clip(p.value), err)
			}
			if answer != "" {
				out.add(p.key, answer)
			}
		}
	}
	l.s.TSIH = be.Uint16(l.h[14:])
	if l.s.FirstBurst > l.s.MaxBurst {
		l.s.FirstBurst = l.s.MaxBurst
	}
	return nil
}

// take stores what the target said of a key, and returns what must be said to it: nothing, unless
// it is a key that was not offered.
func (l *initiator) take(p pair) (answer string, err error) {
	if p.value == valueReject || p.value == valueIrrelevant || p.value == valueNotUnderstood {
		return "", nil // the default holds
	}
	s := &l.s
	switch p.key {
	case keyHeaderDigest:
		s.HeaderDigest, err = l.digestAnswer(p.value, l.cfg.HeaderDigest)
	case keyDataDigest:
		s.DataDigest, err = l.digestAnswer(p.value, l.cfg.DataDigest)
	case keyMaxReceive:
		s.MaxSend, err = receiveLength.parse(p.value)
	case keyMaxBurst:
		s.MaxBurst, err = burstLength.atMost(p.value, offerBurst)
	case keyFirstBurst:
		s.FirstBurst, err = firstBurstLength.atMost(p.value, offerFirstBurst)
	case keyMaxR2T:
		s.MaxR2T, err = maxOutstandingR2T.atMost(p.value, offerR2T)
	case keyMaxConns:
		_, err = maxConnections.atMost(p.value, offerConnections)
	case keyRecovery:
		s.ErrorRecovery, err = recoveryLevel.atMost(p.value, offerRecovery)
	case keyTimeToWait:
		s.TimeToWait, err = timeToWait.parse(p.value)
	case keyTimeToRetain:
		s.TimeToRetain, err = timeToRetain.atMost(p.value, offerTimeToRetain)
	case keyInitialR2T:
		s.InitialR2T, err = boolean(p.value)
	case keyImmediateData:
		s.ImmediateData, err = boolean(p.value)
	case keyPDUInOrder:
		s.PDUInOrder, err = boolean(p.value)
	case keySeqInOrder:
		s.SeqInOrder, err = boolean(p.value)
	case keyTargetAlias, keyPortalGroup, keyTargetAddress: // moved has taken them
	default:
		return valueNotUnderstood, nil
	}
	return "", err
}

func (l *initiator) digestAnswer(value string, wanted bool) (bool, error) {
	if value == valueNone || value == digestCRC32C && wanted {
		return value == digestCRC32C, nil
	}
	return false, errors.New("it was not offered")
}

// round sends out, and returns the whole text that answers it; l.stage moves when this asks to and
// the target agrees.
func (l *initiator) round(out text, move bool, next byte) (text, error) {
	var all []byte
	flags := l.stage << 2
	if move {
		flags |= flagFinal | next
	}
	for {
		if l.rounds++; l.rounds > maxLoginRounds {
			return nil, fmt.Errorf("login takes more than %d requests", maxLoginRounds)
		}
		if err := l.write(flags, out.encode()); err != nil {
			return nil, err
		}
		data, err := l.read()
		if err != nil {
			return nil, err
		}
		if all = append(all, data...); len(all) > maxText {
			return nil, fmt.Errorf("login text of more than %d bytes", maxText)
		}
		if l.h[1]&flagContinue == 0 {
			break
		}
		out, flags = nil, l.stage<<2
	}
	in, err := parseText(all)
	if s := Status(be.Uint16(l.h[36:])); s != StatusOK {
		address, _ := in.get(keyTargetAddress)
		return nil, &LoginError{s, address}
	}
	if err != nil {
		return nil, err
	}
	return in, l.moved(in, flags)
}

// moved takes from a good response what may be in any, and the stage that it ends in.
func (l *initiator) moved(in text, asked byte) error {
	if v, ok := in.get(keyTargetAlias); ok {
		l.s.TargetAlias = clip(v)
	}
	if v, ok := in.get(keyPortalGroup); ok {
		n, err := number(v, 0, 65535)
		if err != nil {
			return fmt.Errorf("TargetPortalGroupTag: %w", err)
		}
		l.s.PortalGroup = uint16(n)
	}
	if !l.h.final() {
		return nil
	}
	if asked&flagFinal == 0 || l.h[1]&3 != asked&3 {
		return fmt.Errorf("target moves from stage %d to %d unasked", l.stage, l.h[1]&3)
	}
	l.stage = asked & 3
	return nil
}

func (l *initiator) write(flags byte, data []byte) error {
	h := header{opLoginRequest | flagImmediate, flags}
	copy(h[8:14], l.cfg.ISID[:])
	be.PutUint32(h[24:], l.s.CmdSN)
	be.PutUint32(h[28:], l.s.ExpStatSN)
	_, err := l.conn.Write(digests{}.appendPDU(nil, &h, data))
	return timedOut(err)
}

// read reads one login response, and takes no byte more from the connection.
func (l *initiator) read() ([]byte, error) {
	data, err := digests{}.read(l.conn, &l.h, maxReceive)
	if err != nil {
		return nil, fmt.Errorf("login response: %w", timedOut(err))
	}
	if op := l.h.op(); op != opLoginResponse {
		return nil, fmt.Errorf("not a login response but %#02x", op)
	}
	if Status(be.Uint16(l.h[36:])) != StatusOK {
		return data, nil // its sequence numbers are not used, and may have any value
	}
	if at := l.h[1] >> 2 & 3; at != l.stage {
		return nil, fmt.Errorf("login response for stage %d in stage %d", at, l.stage)
	}
	if n := be.Uint32(l.h[24:]); l.known && n != l.s.ExpStatSN {
		return nil, fmt.Errorf("login response has number %d where %d is expected", n, l.s.ExpStatSN)
	}
	l.known = true
	l.s.ExpStatSN = be.Uint32(l.h[24:]) + 1
	return data, nil
}

package iscsi

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"netroot/internal/prototest"
)

// FuzzServer feeds a server arbitrary bytes: it must return, with every target released, every byte
// of memory given back, and no more said than the requests can ask for.
func FuzzServer(f *testing.F) {
	for _, s := range scripts(f, "testdata/server/*.txt") {
		f.Add(s.said("C:"))
	}
	for _, file := range glob(f, "testdata/captured/initiator-*.hex") {
		f.Add(captured(f, file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		held := 0
		s := &Server{
			Lookup: func(ctx context.Context, name string) (*Target, error) {
				if strings.HasSuffix(name, "panic") || strings.HasSuffix(name, "big") {
					return nil, nil
				}
				x, err := targets(ctx, name)
				if x != nil {
					held++
					x.Release = func() { held-- }
				}
				return x, err
			},
			List: list,
		}
		s.once.Do(s.setup)
		conn := &prototest.Feed{R: bytes.NewReader(data)}
		s.loop.ServeConn(t.Context(), conn)
		if held != 0 {
			t.Errorf("%d targets not released", held)
		}
		if n := s.Counters().Memory; n != 0 {
			t.Errorf("%d bytes of memory are not given back", n)
		}
		if len(s.sessions) != 0 {
			t.Error("session not left")
		}
		// A request can ask for the whole disk in PDUs of 512 bytes, and a key of 2 bytes for a
		// longer answer.
		if most := 1024 + (len(data)/headerSize)*2*(smallDisk+1024) + 16*len(data); conn.Written > most {
			t.Errorf("%d bytes said to %d", conn.Written, len(data))
		}
	})
}

// FuzzLogin feeds an initiator arbitrary bytes: it must return, and what it accepts must be usable.
func FuzzLogin(f *testing.F) {
	for _, s := range scripts(f, "testdata/client/*.txt") {
		f.Add(s.said("S:"), false)
	}
	for _, file := range glob(f, "testdata/captured/target-*.hex") {
		f.Add(captured(f, file), strings.Contains(file, "chap"))
	}
	f.Fuzz(func(t *testing.T, data []byte, chap bool) {
		cfg := node
		if chap {
			cfg.CHAP = &CHAP{Name: "node", Secret: "node-secret-12"}
		}
		s, err := Login(t.Context(), &prototest.Feed{R: bytes.NewReader(data)}, cfg)
		if err != nil && s != (Session{}) {
			t.Errorf("%+v beside error %v", s, err)
		}
		if err == nil && (s.MaxSend < receiveLength.low || s.MaxBurst < receiveLength.low || s.FirstBurst > s.MaxBurst || s.MaxR2T != 1 || s.ErrorRecovery != 0) {
			t.Errorf("accepted %+v", s)
		}
	})
}

// FuzzCommand runs arbitrary commands: nothing may be read beyond the disk, or be answered beyond
// what was asked for.
func FuzzCommand(f *testing.F) {
	for _, s := range supported {
		f.Add(uint64(0), []byte(s.usage))
	}
	d, err := newDisk(&Target{Name: prefix + "root", ID: diskID, Backend: &memory{size: smallDisk}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, lun uint64, command []byte) {
		var c cdb
		copy(c[:], command)
		o := d.execute(lun, &c)
		if o.n < 0 || o.off < 0 || o.off+o.n > int64(d.blocks)*blockSize {
			t.Errorf("% x: %d bytes from %d", c, o.n, o.off)
		}
		if o.sense != (sense{}) && (o.n != 0 || o.data != nil) || o.n != 0 && o.data != nil || len(o.data) > 1<<12 {
			t.Errorf("% x: %+v", c, o)
		}
		if writes(c[0]) && o.sense == (sense{}) {
			t.Errorf("% x is not refused", c)
		}
	})
}

// FuzzText: what is parsed encodes to what parses to the same.
func FuzzText(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.a\x00AuthMethod=CHAP,None\x00"))
	f.Add([]byte("a=b"))
	f.Add([]byte("\x00=\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := parseText(data)
		if err != nil {
			return
		}
		b := in.encode()
		again, err := parseText(b)
		if err != nil || !bytes.Equal(again.encode(), b) {
			t.Errorf("%q: %v", b, err)
		}
		terms := newTerms()
		for _, p := range in {
			terms.answer(p)
		}
		if terms.maxSend < receiveLength.low || terms.maxBurst < receiveLength.low || terms.maxSend > receiveLength.high || terms.maxBurst > receiveLength.high {
			t.Errorf("%+v", terms)
		}
	})
}

package nbd

import (
	"bytes"
	"context"
	"testing"

	"netroot/internal/prototest"
)

// FuzzServer feeds a server arbitrary bytes: it must return, with every export released, every byte
// of memory given back, and no more said than the requests can ask for.
func FuzzServer(f *testing.F) {
	for _, s := range scripts(f, "testdata/server/*.txt") {
		f.Add(s.said("C:"))
	}
	for _, file := range glob(f, "testdata/captured/client-*.hex") {
		f.Add(captured(f, file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		held := 0
		s := &Server{
			Lookup: func(ctx context.Context, name string) (*Export, error) {
				if name == "panic" || name == "big" {
					return nil, nil
				}
				e, err := exports(ctx, name)
				if err == nil {
					held++
					e.Release = func() { held-- }
				}
				return e, err
			},
			List: func(context.Context) ([]Export, error) { return []Export{{Name: "root"}}, nil },
		}
		s.once.Do(s.setup)
		conn := &prototest.Feed{R: bytes.NewReader(data)}
		s.loop.ServeConn(t.Context(), conn)
		if held != 0 {
			t.Errorf("%d exports not released", held)
		}
		if n := s.Counters().Memory; n != 0 {
			t.Errorf("%d bytes of memory are not given back", n)
		}
		// A request of 28 bytes can ask for the whole disk, an option of 16 for an error text.
		if most := 1024 + (len(data)/requestHead)*(smallDisk+64) + (len(data)/optionHead)*(maxString+64); conn.Written > most {
			t.Errorf("%d bytes said to %d", conn.Written, len(data))
		}
	})
}

// FuzzHandshake feeds a client arbitrary bytes: it must return, and what it accepts must be usable.
func FuzzHandshake(f *testing.F) {
	for _, s := range scripts(f, "testdata/client/*.txt") {
		f.Add(s.said("S:"))
	}
	for _, file := range glob(f, "testdata/captured/server-*.hex") {
		f.Add(captured(f, file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := Handshake(t.Context(), &prototest.Feed{R: bytes.NewReader(data)}, "root")
		if err == nil && info.check() != nil {
			t.Errorf("accepted %+v: %v", info, info.check())
		}
		if err != nil && info != (Info{}) {
			t.Errorf("%+v beside error %v", info, err)
		}
	})
}

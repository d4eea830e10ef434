package nvmetcp

import (
	"bytes"
	"context"
	"io"
	"testing"

	"netroot/internal/prototest"
)

// closing is a reader without bytes that is closed by being read.
type closing chan struct{}

func (c closing) Read([]byte) (int, error) {
	close(c)
	return 0, io.EOF
}

// FuzzServer feeds a server what an admin connection and then an I/O connection may say: it must
// return, with every subsystem released, every byte of memory given back, and no more said than the
// commands can ask for.
func FuzzServer(f *testing.F) {
	for _, s := range scripts(f) {
		f.Add(s.said(0), s.said(1))
	}
	for _, digests := range []string{"", "-digests"} {
		f.Add(captured(f, "testdata/captured/admin"+digests+".hex"), captured(f, "testdata/captured/io"+digests+".hex"))
	}
	f.Add(captured(f, "testdata/captured/discover.hex"), []byte(nil))
	f.Fuzz(func(t *testing.T, admin, queue []byte) {
		held := 0
		s := &Server{
			Lookup: func(ctx context.Context, nqn string) (*Subsystem, error) {
				if nqn == panicNQN {
					return nil, ErrUnknown
				}
				held++
				sub := subsystem(nqn, &memory{size: smallDisk})
				sub.Release = func() { held-- }
				return sub, nil
			},
			List:  listed,
			newID: func() uint16 { return 1 },
		}
		s.once.Do(s.setup)
		// The admin connection must stay while the other one is in use.
		more, stop := io.Pipe()
		heard := make(chan struct{})
		first := &prototest.Feed{R: io.MultiReader(bytes.NewReader(admin), closing(heard), more)}
		second := &prototest.Feed{R: bytes.NewReader(queue)}
		idle := make(chan struct{})
		go func() {
			defer close(idle)
			s.loop.ServeConn(t.Context(), first)
		}()
		select {
		case <-heard:
		case <-idle:
		}
		s.loop.ServeConn(t.Context(), second)
		stop.Close()
		<-idle
		if held != 0 || len(s.controllers) != 0 {
			t.Errorf("%d subsystems not released, %d controllers left", held, len(s.controllers))
		}
		if n := s.Counters().Memory; n != 0 {
			t.Errorf("%d bytes of memory are not given back", n)
		}
		// A command of 72 bytes can ask for a mebibyte of a log page, but of a small disk.
		commands := len(admin)/commandSize + 1
		if most := 1024 + commands*(maxTransfer+17*64); first.Written > most {
			t.Errorf("%d bytes said to %d", first.Written, len(admin))
		}
		if most := 1024 + (len(queue)/commandSize+1)*(smallDisk+1024); second.Written > most {
			t.Errorf("%d bytes said to %d on the queue", second.Written, len(queue))
		}
	})
}

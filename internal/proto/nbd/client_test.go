package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"netroot/internal/prototest"
)

// TestClientScripts holds the handshake to conversations written byte for byte. Their last line is
// what it returns: "= Info" or "! error".
func TestClientScripts(t *testing.T) {
	for _, s := range scripts(t, "testdata/client/*.txt") {
		t.Run(filepath.Base(s.file), func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			conn := prototest.Dial(t, l.Addr().String())
			got := make(chan string, 1)
			go func() {
				info, err := Handshake(t.Context(), conn, "root")
				if err != nil {
					got <- "! " + err.Error()
					return
				}
				got <- fmt.Sprintf("= %+v", info)
			}()
			peer, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			s.play(t, peer, "S:")
			last := s.lines[len(s.lines)-1]
			if g, want := <-got, last.who+" "+last.text; g != want {
				t.Errorf("\n got %s\nwant %s", g, want)
			}
		})
	}
}

// TestHandshakeLeavesTheRest: the kernel must find the first byte of the transmission in the
// socket.
func TestHandshakeLeavesTheRest(t *testing.T) {
	for _, f := range []string{"nbdkit", "qemu-nbd"} {
		conn := &prototest.Feed{R: strings.NewReader(string(captured(t, "testdata/captured/server-"+f+".hex")) + "rest")}
		info, err := Handshake(t.Context(), conn, "root")
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if info.Size != 1<<20 || info.Flags&FlagHasFlags == 0 {
			t.Errorf("%s: %+v", f, info)
		}
		if rest, _ := io.ReadAll(conn); string(rest) != "rest" {
			t.Errorf("%s: %d bytes left, want 4", f, len(rest))
		}
	}
}

func TestHandshakeWithOurServer(t *testing.T) {
	addr, _, _ := start(t, &Server{})
	info, err := Handshake(t.Context(), prototest.Dial(t, addr), "root")
	want := Info{smallDisk, FlagHasFlags | FlagReadOnly | FlagCanMultiConn | FlagSendCache, 1, 4096, 32 << 20}
	if err != nil || info != want {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = Handshake(t.Context(), prototest.Dial(t, addr), "rot")
	if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), `no label \"rot\"`) {
		t.Errorf("unknown export: %v", err)
	}
	if _, err = Handshake(t.Context(), prototest.Dial(t, addr), strings.Repeat("n", maxString+1)); err == nil {
		t.Error("no error for a name that is too long")
	}
}

// TestHandshakeEndsWithContext: a server that says nothing, before and within a message.
func TestHandshakeEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		conn, peer := net.Pipe()
		defer conn.Close()
		go peer.Write([]byte("NBDMA"))
		begin := time.Now()
		_, err := Handshake(ctx, conn, "root")
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer in time") {
			t.Errorf("error %v", err)
		}
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("after %v", d)
		}
		if _, err := Handshake(ctx, conn, "root"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a context that is over: %v", err)
		}
	})
}

func TestHandshakeBoundsReplies(t *testing.T) {
	b, err := unquote(`"NBDMAGIC" "IHAVEOPT" 0003`)
	if err != nil {
		t.Fatal(err)
	}
	for range maxReplies {
		b = appendReply(b, optGo, repInfo, []byte("\x77\x77"))
	}
	_, err = Handshake(t.Context(), &prototest.Feed{R: strings.NewReader(string(b))}, "root")
	if err == nil || !strings.Contains(err.Error(), "more than 64 replies") {
		t.Errorf("error %v", err)
	}
}

package iscsi

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

var node = LoginConfig{Initiator: prefix + "node", Target: prefix + "root", ISID: [6]byte{0x80, 0, 0, 0, 0, 1}}

// TestLoginScripts holds the initiator to conversations written byte for byte. Their last line is
// what it returns: "= Session" or "! error".
func TestLoginScripts(t *testing.T) {
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
				session, err := Login(t.Context(), conn, node)
				if err != nil {
					got <- "! " + strings.TrimPrefix(err.Error(), `iscsi login to target "`+node.Target+`": `)
					return
				}
				got <- fmt.Sprintf("= %+v", session)
			}()
			peer, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer peer.Close()
			s.play(t, peer, "S:")
			last := &s.lines[len(s.lines)-1]
			if g, want := <-got, last.who+" "+last.text; g != want {
				if *update && g[0] == '=' {
					last.text = g[2:]
					s.rewrite(t)
				} else {
					t.Errorf("\n got %s\nwant %s", g, want)
				}
			}
		})
	}
}

func TestLoginWithOurTarget(t *testing.T) {
	addr, log, _ := start(t, &Server{})
	want := Session{TSIH: 1, PortalGroup: 1, TargetAlias: "small disk", CmdSN: 1, ExpStatSN: 2,
		HeaderDigest: true, DataDigest: true, MaxReceive: 4096, MaxSend: maxReceive, MaxBurst: 1 << 20, FirstBurst: 65536,
		MaxR2T: 1, InitialR2T: true, PDUInOrder: true, SeqInOrder: true}
	cfg := node
	cfg.HeaderDigest, cfg.DataDigest, cfg.MaxReceive = true, true, 4096
	s, err := Login(t.Context(), prototest.Dial(t, addr), cfg)
	if err != nil || s != want {
		t.Errorf("%+v, %v", s, err)
	}
	cfg = config("root")
	cfg.Sent = 1<<32 - 2 // numbers wrap
	c := loginAs(t, addr, cfg)
	for want := ^uint32(0); want != 2; want++ {
		if c.sn != want {
			t.Errorf("the next command has number %d, want %d", c.sn, want)
		}
		if err := c.read(1, 0, 1); err != nil {
			t.Fatal(err)
		}
		if h, _, err := c.next(); err != nil || h.op() != opDataIn || be.Uint32(h[28:]) != want+1 {
			t.Errorf("command %d is answered with %x, %v", want, h, err)
		}
	}
	cfg.Target = prefix + "rot"
	var refused *LoginError
	if _, err = Login(t.Context(), prototest.Dial(t, addr), cfg); !errors.Is(err, ErrUnknown) || !errors.As(err, &refused) || refused.Status != StatusNotFound {
		t.Errorf("unknown target: %v\n%s", err, log)
	}
	cfg.Target = prefix + "failing"
	if _, err = Login(t.Context(), prototest.Dial(t, addr), cfg); !errors.As(err, &refused) || !refused.Status.Temporary() {
		t.Errorf("target with an error: %v", err)
	}
	for _, bad := range []LoginConfig{{Target: "a"}, {Initiator: "a"}, {Initiator: "a", Target: "b c"},
		{Initiator: "a", Target: "b", CHAP: &CHAP{Name: "n"}}, {Initiator: "a", Target: "b", CHAP: &CHAP{"n", "s", "p", "s"}}} {
		if _, err := Login(t.Context(), nil, bad); err == nil {
			t.Errorf("no error for %+v", bad)
		}
	}
}

// TestCHAP: both ends of ours, right and wrong in every way.
func TestCHAP(t *testing.T) {
	addr, log, _ := start(t, &Server{})
	for _, tt := range []struct {
		what, target string
		chap         *CHAP
		want         string // of the error
	}{
		{"one-way", "one-way", &CHAP{Name: "node", Secret: "node-secret-12"}, ""},
		{"one-way where both could", "secret", &CHAP{Name: "node", Secret: "node-secret-12"}, ""},
		{"mutual", "secret", &CHAP{"node", "node-secret-12", "server", "server-secret-12"}, ""},
		{"not asked for", "root", &CHAP{Name: "node", Secret: "node-secret-12"}, ""},
		{"mutual, not asked for", "root", &CHAP{"node", "node-secret-12", "server", "server-secret-12"}, "authentication failed"},
		{"wrong secret", "one-way", &CHAP{Name: "node", Secret: "node-secret-13"}, "authentication failed"},
		{"wrong name", "one-way", &CHAP{Name: "nod", Secret: "node-secret-12"}, "authentication failed"},
		{"none", "one-way", nil, "authentication failed"},
		{"target has none", "one-way", &CHAP{"node", "node-secret-12", "server", "server-secret-12"}, "authentication failed"},
		{"target's is wrong", "secret", &CHAP{"node", "node-secret-12", "server", "server-secret-13"}, "target: authentication failed: wrong CHAP name"},
		{"target's name is wrong", "secret", &CHAP{"node", "node-secret-12", "serve", "server-secret-12"}, "target: authentication failed: wrong CHAP name"},
	} {
		cfg := node
		cfg.Target, cfg.CHAP = prefix+tt.target, tt.chap
		_, err := Login(t.Context(), prototest.Dial(t, addr), cfg)
		if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
	prototest.Until(t, "the wrong name in the log", func() bool { return strings.Contains(log.String(), `wrong CHAP name (\"nod\") or secret`) })
	if s := log.String(); strings.Contains(s, "secret-1") {
		t.Errorf("log:\n%s", s)
	}
}

// TestCHAPReflected: a peer that sends our own challenge back must not be told the answer to it
// (RFC 7143 §9.2.1).
func TestCHAPReflected(t *testing.T) {
	addr, log, _ := start(t, &Server{})
	l := newInitiator(prototest.Dial(t, addr), LoginConfig{})
	_, err := l.round(text{{keyInitiatorName, "iqn.a"}, {keyTargetName, prefix + "secret"}, {keyAuth, methodCHAP}}, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.round(text{{keyAlgorithm, chapMD5}}, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := asked(chapMD5, in)
	if err != nil {
		t.Fatal(err)
	}
	var out text
	theirs.answer(&out, "node", "node-secret-12")
	theirs.ask(&out)
	if _, err := l.round(out, true, stageOperational); err == nil {
		t.Error("logged in")
	}
	prototest.Until(t, "the reason in the log", func() bool { return strings.Contains(log.String(), "the initiator sends our challenge back") })
}

func TestBinaryValues(t *testing.T) {
	for in, want := range map[string]string{"0x0aFf": "\x0a\xff", "0XaFf": "\x0a\xff", "0bCv8=": "\x0a\xff", "0BCv8=": "\x0a\xff"} {
		if got, err := binaryValue(in, 2); err != nil || string(got) != want {
			t.Errorf("%s: %x, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0x", "ff", "0y00", "0xgg", "0b?", "0x010203", "0bAQID", "0x" + strings.Repeat("00", 9)} {
		if got, err := binaryValue(in, 2); err == nil {
			t.Errorf("%s: %x", in, got)
		}
	}
}

// TestDigestOfRFC: the CRC32C of 32 zeroes (RFC 7143, Appendix A.4) as it is on the wire.
func TestDigestOfRFC(t *testing.T) {
	b := digests{data: true}.appendData(nil, make([]byte, 32))
	if got := fmt.Sprintf("%x", b[32:]); got != "aa36918a" {
		t.Error(got)
	}
}

// TestLoginLeavesTheRest: the kernel must find the first byte behind the login in the socket.
func TestLoginLeavesTheRest(t *testing.T) {
	for _, file := range glob(t, "testdata/captured/target-*.hex") {
		conn := &prototest.Feed{R: strings.NewReader(string(captured(t, file)) + "rest")}
		cfg := node
		if strings.Contains(file, "chap") {
			cfg.CHAP = &CHAP{Name: "node", Secret: "node-secret-12"}
		}
		s, err := Login(t.Context(), conn, cfg)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if s.TSIH == 0 || s.MaxSend < receiveLength.low {
			t.Errorf("%s: %+v", file, s)
		}
		if rest, _ := io.ReadAll(conn); string(rest) != "rest" {
			t.Errorf("%s: %d bytes left, want 4", file, len(rest))
		}
	}
}

// TestLoginEndsWithContext: a target that says nothing, before and within a message.
func TestLoginEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		conn, peer := net.Pipe()
		defer conn.Close()
		go func() {
			io.ReadFull(peer, make([]byte, headerSize))
			peer.Write([]byte("\x23\x81"))
		}()
		begin := time.Now()
		_, err := Login(ctx, conn, node)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "nothing came in time") {
			t.Errorf("error %v", err)
		}
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("after %v", d)
		}
		if _, err := Login(ctx, conn, node); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a context that is over: %v", err)
		}
	})
}

// TestLoginIsBounded: a target that never comes to an end.
func TestLoginIsBounded(t *testing.T) {
	var b []byte
	for i := range 100 {
		h := header{opLoginResponse}
		be.PutUint32(h[24:], uint32(i))
		b = digests{}.appendPDU(b, &h, nil)
	}
	_, err := Login(t.Context(), &prototest.Feed{R: strings.NewReader(string(b))}, node)
	if err == nil || !strings.Contains(err.Error(), "more than 32 requests") {
		t.Errorf("error %v", err)
	}
}

// requests counts the Writes on a connection, and what they hold.
type requests struct {
	net.Conn
	t *testing.T
	n int
}

func (w *requests) Write(b []byte) (int, error) {
	w.n++
	h := (*header)(b)
	if n := h.dataLen(); len(b) != headerSize+n+padding(n) || h.op() != opLoginRequest {
		w.t.Errorf("a write of %d bytes for a request with %d", len(b), n)
	}
	return w.Conn.Write(b)
}

// TestLoginWritesRequests: one PDU is one Write, which the kernel's login channel counts on.
func TestLoginWritesRequests(t *testing.T) {
	addr, _, _ := start(t, &Server{})
	cfg := config("secret")
	cfg.CHAP = &CHAP{"node", "node-secret-12", "server", "server-secret-12"}
	conn := &requests{Conn: prototest.Dial(t, addr), t: t}
	if _, err := Login(t.Context(), conn, cfg); err != nil || conn.n != 4 {
		t.Errorf("%d writes, %v", conn.n, err)
	}
}

package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"netroot/internal/prototest"
)

// certificate returns a server's configuration for 127.0.0.1 and a client's that trusts it.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// say plays lines of a script without a file: "S: ..." and "C: ...".
func say(t *testing.T, conn net.Conn, lines ...string) {
	t.Helper()
	var s script
	for _, text := range lines {
		who, rest, _ := strings.Cut(text, " ")
		l := line{who: who, eof: rest == "EOF"}
		if !l.eof {
			var err error
			if l.data, err = unquote(rest); err != nil {
				t.Fatal(err)
			}
		}
		s.lines = append(s.lines, l)
	}
	s.play(t, conn, "C:")
}

const (
	hello    = `S: "NBDMAGIC" "IHAVEOPT" 0003`
	flags    = `C: 00000003`
	startTLS = `C: "IHAVEOPT" 00000005 00000000`
	tlsAck   = `S: 0003e889045565a9 00000005 00000001 00000000`
)

// TestTLS: refused before, served after, and what was agreed in plain text is void.
func TestTLS(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	addr, log, stop := start(t, &Server{TLS: serverTLS, RequireTLS: true})
	conn := prototest.Dial(t, addr)
	say(t, conn, hello, flags,
		`C: "IHAVEOPT" 00000007 0000000a u32"root" 0000`,
		`S: 0003e889045565a9 00000007 80000005 u32"TLS is required here"`,
		`C: "IHAVEOPT" 00000063 00000000`,
		`S: 0003e889045565a9 00000063 80000005 u32"TLS is required here"`,
		`C: "IHAVEOPT" 00000005 00000001 00`,
		`S: 0003e889045565a9 00000005 80000003 u32"this option has no data"`,
		startTLS, tlsAck)
	sec := tls.Client(conn, clientTLS)
	say(t, sec, startTLS,
		`S: 0003e889045565a9 00000005 80000003 u32"TLS is in use already"`,
		`C: "IHAVEOPT" 00000007 0000000a u32"root" 0000`,
		`S: 0003e889045565a9 00000007 00000003 0000000c 0000 0000000000002000 0503`,
		`S: 0003e889045565a9 00000007 00000001 00000000`,
		`C: 25609513 0000 0000 "cookie-1" 0000000000000010 00000010`,
		`S: 67446698 00000000 "cookie-1" 01*16`,
		`C: 25609513 0000 0002 "cookie-2" 0000000000000000 00000000`)
	if b, err := io.ReadAll(sec); err != nil || len(b) > 0 {
		t.Errorf("after a disconnect: %x, %v; want TLS's own end", b, err)
	}

	// Old clients cannot be told, and options behind STARTTLS in one packet are someone else's.
	say(t, prototest.Dial(t, addr), hello, flags, `C: "IHAVEOPT" 00000001 u32"root"`, `S: EOF`)
	say(t, prototest.Dial(t, addr), hello, flags, startTLS+` "IHAVEOPT" 00000008 00000000`, `S: EOF`)
	say(t, prototest.Dial(t, addr), hello, flags, startTLS, tlsAck, `C: "no TLS handshake is like this"`)
	abort := prototest.Dial(t, addr)
	say(t, abort, hello, flags, `C: "IHAVEOPT" 00000002 00000000`, `S: 0003e889045565a9 00000002 00000001 00000000`, `S: EOF`)
	prototest.Until(t, "the last refusal", func() bool { return strings.Contains(log.String(), "TLS handshake: ") })
	stop()
	for _, want := range []string{"no TLS, which is required here", "EXPORT_NAME without TLS", "plain text behind STARTTLS"} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("not one %q in\n%s", want, log)
		}
	}
}

// TestTLSForgetsPlainText: structured replies agreed before STARTTLS do not hold after.
func TestTLSForgetsPlainText(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	addr, _, _ := start(t, &Server{TLS: serverTLS})
	conn := prototest.Dial(t, addr)
	say(t, conn, hello, flags,
		`C: "IHAVEOPT" 00000008 00000000`,
		`S: 0003e889045565a9 00000008 00000001 00000000`,
		startTLS, tlsAck)
	say(t, tls.Client(conn, clientTLS),
		`C: "IHAVEOPT" 00000001 u32"root"`,
		`S: 0000000000002000 0503`)
	say(t, prototest.Dial(t, addr), hello, flags, `C: "IHAVEOPT" 00000001 u32"root"`, `S: 0000000000002000 0503`)
}

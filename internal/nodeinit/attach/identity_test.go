package attach

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"netroot/internal/proto/nbd"
)

// TestNBDKnowsItsRoot: a server that has another image under the same name is not the root, also if
// the image has the same size. The identity goes to the keeper.
func TestNBDKnowsItsRoot(t *testing.T) {
	const size = 1<<20 + 100
	mine := bytes.Repeat([]byte("a"), size)
	var served atomic.Pointer[[]byte]
	served.Store(&mine)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := &nbd.Server{Lookup: func(context.Context, string) (*nbd.Export, error) {
		return &nbd.Export{Backend: bytes.NewReader(*served.Load())}, nil
	}}
	go func() { done <- server.Serve(ctx, l) }()
	defer func() {
		stop()
		<-done
	}()
	d := &NBD{Addresses: []string{l.Addr().String()}, Export: "tiny@0123456789ab"}
	dial := func() error {
		_, err := d.dialAny(t.Context())
		if err == nil {
			d.conn.Close()
		}
		return err
	}
	if err := dial(); err != nil || len(d.Identity) == 0 {
		t.Fatalf("%x, %v", d.Identity, err)
	}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	d = new(NBD)
	if err := json.Unmarshal(b, d); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"superblock": func(b []byte) []byte { b[8]++; return b },
		"tables":     func(b []byte) []byte { b[size-1000]++; return b },
		"size":       func(b []byte) []byte { return b[:size/2] },
	} {
		other := change(bytes.Clone(mine))
		served.Store(&other)
		if err := dial(); err == nil || !strings.Contains(err.Error(), "serve the image that this node runs") {
			t.Errorf("%s: %v", name, err)
		}
	}
	served.Store(&mine)
	if err := dial(); err != nil {
		t.Errorf("the root itself: %v", err)
	}
	// An adopted device has whole sectors only.
	file := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(file, mine[:size/sectorSize*sectorSize], 0o644); err != nil {
		t.Fatal(err)
	}
	if id := identityOfDevice(file, size/sectorSize*sectorSize, time.Minute); !bytes.Equal(id, d.Identity) {
		t.Errorf("%x of the device, %x over NBD", id, d.Identity)
	}
	if id := identityOfDevice(file+"x", size, time.Minute); id != nil {
		t.Errorf("identity of nothing: %x", id)
	}
}

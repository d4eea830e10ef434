package captive

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/boot"
	"netroot/internal/handoff"
)

type listener struct {
	net.Listener
	at string
}

func (l listener) Addr() net.Addr {
	a, err := net.ResolveTCPAddr("tcp", l.at)
	if err != nil {
		panic(err)
	}
	return a
}

func TestAddresses(t *testing.T) {
	digest := "sha256:" + strings.Repeat("e", 64)
	im := boot.Image{Name: "tiny@0123456789ab", Root: boot.File{Digest: handoff.Digest(digest)}}
	roots := map[handoff.Transport]net.Listener{
		handoff.NBD: listener{at: "0.0.0.0:10809"}, handoff.ISCSI: listener{at: "127.0.0.1:3260"},
		handoff.NFS: listener{at: "[::1]:2049"}, handoff.NVMe: listener{at: "[::]:4420"},
	}
	for secure, nbd := range map[bool]string{false: "nbd", true: "nbds"} {
		got, err := Addresses(im, listener{at: "127.0.0.1:80"}, roots, secure)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(got)
		want := []string{
			"NETROOT_HTTP=http://127.0.0.1:80/v1/blobs/" + digest,
			"NETROOT_ISCSI=iscsi://127.0.0.1:3260/iqn.2026-11.invalid.netroot:tiny:0123456789ab/0",
			"NETROOT_NBD=" + nbd + "://127.0.0.1:10809/tiny@0123456789ab",
			"NETROOT_NFS=nfs://[::1]/.images/" + strings.Repeat("e", 64) + "?version=3&nfsport=2049&mountport=2049",
			"NETROOT_NVME=-t tcp -a 127.0.0.1 -s 4420 -n nqn.2026-11.invalid.netroot:tiny:0123456789ab",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := Addresses(boot.Image{Name: "x"}, nil, nil, false); err == nil {
		t.Error("an image without a root has addresses")
	}
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	c := Command{Line: `read word; echo "$word $NETROOT_X"`, Environ: []string{"NETROOT_X=x"}, Stdin: strings.NewReader("word\n"), Stdout: &out}
	if err := c.Run(t.Context()); err != nil || out.String() != "word x\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	for line, want := range map[string]int{"exit 3": 3, "kill -TERM $$": 143} {
		err := Command{Line: line}.Run(t.Context())
		if ended := (*ExitError)(nil); !errors.As(err, &ended) || ended.Status != want {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// started notices the first output of a command.
type started chan struct{}

func (s started) Write(b []byte) (int, error) {
	close(s)
	return len(b), nil
}

// All that the command has started ends with it when the context does: what goes on holds its
// standard output open, and Run would wait for that.
func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := make(started)
	go func() { <-out; cancel() }()
	begin := time.Now()
	err := Command{Line: "sleep 614.25 & echo ready; wait", Stdout: out}.Run(ctx)
	if took := time.Since(begin); !errors.Is(err, context.Canceled) || took >= killAfter {
		t.Errorf("%v after %v", err, took)
	}
}

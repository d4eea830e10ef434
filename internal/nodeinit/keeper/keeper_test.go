package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/network"
	"netroot/internal/nodeinit/report"
)

// TestState: the orders are the same when the keeper has read them.
func TestState(t *testing.T) {
	cfg := &network.Config{Link: "eth0", Index: 2, MAC: "52:54:00:12:34:56", Address: netip.MustParsePrefix("10.1.2.3/24"),
		Lease: &network.Lease{Server: "10.1.2.1", ACK: []byte{1, 2}, Offer: []byte{3}, Duration: time.Hour}}
	iscsi := &attach.ISCSI{Addresses: []string{"10.1.2.1:3260"}, Target: "iqn.x", LUN: 1, Initiator: "iqn.y", ISID: [6]byte{0x80, 1, 2, 3}}
	iscsi.Kernel.Handle, iscsi.Kernel.SID, iscsi.Kernel.CID = 0xffffffffc0a81234, 7, 2
	for name, in := range map[string]State{
		"nbd":   {NBD: &attach.NBD{Index: 3, Addresses: []string{"10.1.2.1:10809"}, Export: "a@b", Size: 1 << 40}, Net: cfg},
		"iscsi": {ISCSI: iscsi},
		"live":  {Live: true},
		"lease": {Net: cfg},
	} {
		text, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var out State
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatal(err)
		}
		same := cmp.Options{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Exporter(func(reflect.Type) bool { return true })}
		if d := cmp.Diff(in, out, same); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if !out.Needed() || (out.device() != nil) != (name == "nbd" || name == "iscsi") {
			t.Errorf("%s: needed %v, device %v", name, out.Needed(), out.device())
		}
	}
	if (State{Net: &network.Config{Link: "eth0"}}).Needed() {
		t.Error("a static address needs no keeper")
	}
}

// TestProtect: the scripts of a System V init find the keeper among those not to kill.
func TestProtect(t *testing.T) {
	top := t.TempDir()
	if err := os.MkdirAll(top+"/proc/42", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(top+"/proc/42/oom_score_adj", []byte("0"), 0o644); err != nil { // the kernel makes it
		t.Fatal(err)
	}
	if err := protect(42, top); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"/proc/42/oom_score_adj": "-1000", "/run/sendsigs.omit.d/netroot": "42\n"} {
		if got, err := os.ReadFile(top + file); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", file, got, err, want)
		}
	}
	if err := protect(43, top); err == nil {
		t.Error("no error for a process that does not exist")
	}
}

// The orders of a process that outlives this one are all there before it begins.
func TestFilledPipe(t *testing.T) {
	r, err := filledPipe([]byte("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 100)
	if n, err := r.Read(buf); string(buf[:n]) != "orders" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if _, err := filledPipe(make([]byte, 65<<10)); err == nil {
		t.Error("more than a pipe holds is taken")
	}
}

// TestMain is the keeper when Start runs this program.
func TestMain(m *testing.M) {
	if IsKeeper(os.Args[0]) {
		fmt.Fprintln(os.Stderr, Run(os.Stdin))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestStart: a keeper is there when it says that it has taken over, and one that cannot read its
// orders is an error.
func TestStart(t *testing.T) {
	for orders, want := range map[string]string{`{"Live": true}`: "", `{"Live": `: "has not taken over"} {
		stdin, err := filledPipe([]byte(orders))
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		p := &Process{&exec.Cmd{Path: "/proc/self/exe", Args: []string{name}, Stdin: stdin}}
		err = p.startReady([]*os.File{dir})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", orders, err, want)
		}
		if err == nil {
			if err := p.cmd.Process.Signal(syscall.Signal(0)); err != nil {
				t.Errorf("it does not run: %v", err)
			}
			p.Dismiss()
		}
		stdin.Close()
		dir.Close()
	}
}

// flaky is a device whose server is away for a number of attempts.
type flaky struct {
	device
	failures []error
	attempts []time.Time
}

func (f *flaky) Peer() string { return "10.1.2.1:10809" }

func (f *flaky) Reconnect(context.Context) error {
	f.attempts = append(f.attempts, time.Now())
	if len(f.attempts) > len(f.failures) {
		return nil
	}
	return f.failures[len(f.attempts)-1]
}

// TestReconnect: the keeper tries until the server is back, soon at first, and names each reason
// once.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused, reset := errors.New("refused"), errors.New("reset")
		d := &flaky{failures: append(slices.Repeat([]error{refused}, 5), slices.Repeat([]error{reset}, 5)...)}
		var said bytes.Buffer
		started := time.Now()
		reconnect(t.Context(), report.Step{Name: "keeper", To: report.NewConsole(&said)}, d)
		// 0.1, 0.2, 0.4, 0.8, 1.6 and five of 2 s
		if took := time.Since(started); len(d.attempts) != 11 || took != 13100*time.Millisecond {
			t.Errorf("%d attempts in %s", len(d.attempts), took)
		}
		for want, times := range map[string]int{"FAILED: refused": 1, "FAILED: reset": 1, "reads of the root wait": 1,
			"netroot: keeper: connected to 10.1.2.1:10809 again after 13.1 s": 1} {
			if strings.Count(said.String(), want) != times {
				t.Errorf("%q is not said %d times:\n%s", want, times, said.String())
			}
		}
	})
}

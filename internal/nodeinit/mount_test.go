package nodeinit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/report"
)

func TestMountOptions(t *testing.T) {
	in := handoff.Root{MountOptions: []string{"ro", "errors=continue", "rw", "noatime", "nodev", "threads=multi"}}
	if got, flags := mountOptions(in); got != "errors=continue,threads=multi" || flags != unix.MS_NOATIME|unix.MS_NODEV {
		t.Errorf("mountOptions = %q, %#x", got, flags)
	}
}

// TestRefusedOptions mounts with options that the kernel does not know: the mount is made without
// them, and the console says so. What is wrong besides is an error, without hope.
func TestRefusedOptions(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting requires root")
	}
	done := make(chan struct{})
	go func() { // its thread is in another namespace and must not be used again
		defer close(done)
		runtime.LockOSThread()
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			t.Error(err)
			return
		}
		refusedOptions(t)
	}()
	<-done
}

func refusedOptions(t *testing.T) {
	for _, c := range []struct {
		fstype, options, others string
		asked, hopeless         bool
		said                    string
	}{
		{"tmpfs", "size=1m", "size=2m", true, false, ""},
		{"tmpfs", "size=bogus", "size=2m", false, false, "FAILED: the kernel does not know a size of rootovl=bogus for tmpfs: mounted without"},
		{"tmpfs", "bogus", "", false, false, "mounted without"},
		{"nosuchfs", "bogus", "", false, true, ""},
		{"tmpfs", "size=bogus", "size=worse", false, true, ""},
	} {
		n, said := quiet()
		var u undo
		target := filepath.Join(t.TempDir(), "at")
		m := attach.Mount{Source: "none", FSType: c.fstype, Options: c.options}
		asked, err := u.mountOr(report.Step{Name: "mount", To: n.to}, m, target, c.others, "size of rootovl=bogus")
		if asked != c.asked || isHopeless(err) != c.hopeless || (err != nil) != c.hopeless {
			t.Errorf("%+v: %v, %v", c, asked, err)
		}
		if !strings.Contains(said.String(), c.said) || (c.said == "") != (said.Len() == 0) {
			t.Errorf("%+v: console %q", c, said)
		}
		u.onError(errors.New("unmount"))
	}
}

// TestHopeless: what no server can mend is tried as often as the plan requires, and not for the
// patience that an absent server has. Without a plan to blame it is repeated.
func TestHopeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := quiet()
		s := failing(time.Hour, 0)
		s.needsPlan = report.MountFailed
		fail := s.run
		s.run = func(ctx context.Context, out report.Step) (string, error) {
			said, err := fail(ctx, out)
			return said, hopelessError{err}
		}
		started := time.Now()
		err := n.try(t.Context(), s)
		if took := time.Since(started); reasonOf(err) != report.MountFailed || !errors.Is(err, errRefused) || took > time.Minute {
			t.Errorf("%v after %s", err, took)
		}
		n, _ = quiet()
		s.needsPlan, s.run = "", failing(30*time.Minute, 0).run
		if err := n.try(t.Context(), s); err != nil {
			t.Error(err)
		}
	})
}

// TestRecognise: the first bytes tell the two packed file systems; others are without hope.
func TestRecognise(t *testing.T) {
	erofs := append(make([]byte, 1024), 0xe2, 0xe1, 0xf5, 0xe0)
	for _, c := range []struct {
		head     []byte
		want     string
		hopeless bool
	}{
		{append([]byte("hsqs"), make([]byte, 1100)...), "squashfs", false},
		{erofs, "erofs", false},
		{make([]byte, 2000), "", true},
		{[]byte("short"), "", false},
	} {
		file := filepath.Join(t.TempDir(), "device")
		if err := os.WriteFile(file, c.head, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := recognise(file)
		if got != c.want || isHopeless(err) != c.hopeless || (err == nil) != (c.want != "") {
			t.Errorf("%.8q: %q, %v", c.head, got, err)
		}
	}
}

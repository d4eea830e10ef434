package devices

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := Until(t.Context(), 3*time.Second, "eth0: carrier", func() (bool, error) { return false, nil })
		if err == nil || err.Error() != "eth0: carrier: nothing after 3s" {
			t.Errorf("%v", err)
		}
		asked := 0
		if err := Until(t.Context(), time.Second, "x", func() (bool, error) { asked++; return asked == 3, nil }); err != nil || asked != 3 {
			t.Errorf("asked %d times: %v", asked, err)
		}
	})
}

func TestUntilFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handle")
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		err := UntilFile(t.Context(), path, "iscsi_tcp")
		if err == nil || err.Error() != path+" (module iscsi_tcp): nothing after 10s" || time.Since(started) > 11*time.Second {
			t.Errorf("%v after %s", err, time.Since(started))
		}
	})
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := UntilFile(t.Context(), path, "iscsi_tcp"); err != nil {
		t.Error(err)
	}
}

func TestAttribute(t *testing.T) {
	path := filepath.Join(t.TempDir(), "size")
	if err := os.WriteFile(path, []byte(" 2048\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Attribute(path); got != "2048" {
		t.Errorf("%q", got)
	}
	if got := Attribute(path + "x"); got != "" {
		t.Errorf("%q of a file that does not exist", got)
	}
}

package devices

import (
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

package folder

import (
	"fmt"
	"testing"
	"time"
)

// TestSettles: an archive is made, and taken for the directory's, only when the last change is
// older than a tick of the clock of files, since a second change within that tick would not show.
func TestSettles(t *testing.T) {
	folder, l, log := layersIn(t, map[string]string{"a/f": "0"})
	for i := range 5 {
		put(t, folder+"/a/f", fmt.Sprint(i)) // of the same size
		digestOf(t, l, "a")
		s, err := stateOf(folder + "/a")
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(s.newest); age < clockTick {
			t.Errorf("archived %v after the change", age)
		}
	}
	// What has not changed for longer is not waited for.
	began := time.Now()
	if l.Render([]string{"a"}); renderings(log) != 5 || time.Since(began) > time.Second {
		t.Errorf("%d renderings, the last in %v", renderings(log), time.Since(began))
	}
}

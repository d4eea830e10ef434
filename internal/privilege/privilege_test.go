package privilege

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Every thread of a process has what was kept, in every set, and nothing else.
func TestKeep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root has capabilities to drop")
	}
	program := filepath.Join(t.TempDir(), "keep")
	build := exec.Command("go", "build", "-o", program, "./testdata/keep")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(program).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := "CapInh:0000000000000000 CapPrm:000000000000000d CapEff:0000000000000005 CapBnd:0000000000000005 CapAmb:0000000000000000 NoNewPrivs:1"
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, line := range lines {
		if line != want {
			t.Errorf("a thread has\n%s, want\n%s", line, want)
		}
	}
	if len(lines) < 5 {
		t.Errorf("%d threads", len(lines))
	}
}

func TestNames(t *testing.T) {
	for c, want := range map[Capability]string{DACReadSearch: "dac_read_search", unix.CAP_SYS_BOOT: "22"} {
		if got := c.String(); got != want {
			t.Errorf("%d is %q, want %q", c, got, want)
		}
	}
	if last, err := lastCapability(); err != nil || last < Capability(unix.CAP_CHECKPOINT_RESTORE) {
		t.Errorf("last %d, %v", last, err)
	}
}

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/recipe"
)

func TestHost(t *testing.T) {
	root := tinyTree(t)
	dir, temp := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	var out bytes.Buffer
	h := Host{Dir: dir, Env: HostEnviron(os.Environ(), root, nil), Stdout: &out}
	err := h.RunScript(t.Context(), script(`
pwd
umask
echo $APPTAINER_ROOTFS
mount -t tmpfs forgotten "$SINGULARITY_ROOTFS/mnt"
echo x > "$SINGULARITY_ROOTFS/mnt/x"
echo y > relative
setsid sleep 604.25 &
`), "%setup")
	must(t, err)
	if want := dir + "\n0022\n" + root + "\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	if _, err := os.Stat(filepath.Join(dir, "relative")); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(root, "mnt")); len(left) > 0 {
		t.Errorf("the forgotten mount shows: %v", left)
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
	if pids := processesWith("604.25"); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
}

func TestHostFailures(t *testing.T) {
	tinyTree(t) // checks that mounts are unchanged
	t.Setenv("TMPDIR", t.TempDir())
	h := Host{}
	err := h.RunScript(t.Context(), script("false\ntrue"), "%pre")
	if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Code != 1 || err.Error() != "%pre: exit status 1" {
		t.Errorf("error %v", err)
	}
	if err := h.Run(t.Context(), []string{"no-such-tool"}); err == nil || !strings.Contains(err.Error(), "no-such-tool") {
		t.Errorf("error %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started := &announce{make(chan struct{})}
	h.Stdout = started
	go func() { <-started.ready; cancel() }()
	err = h.RunScript(ctx, script("sleep 605.25 & echo; (sleep 605.25; true)"), "%setup")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if pids := processesWith("605.25"); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

func TestEnviron(t *testing.T) {
	host := []string{
		"PATH=/evil", "HOME=/home/u", "TERM=vt100", "http_proxy=http://p:1", "NO_PROXY=.x", "Http_Proxy=no", "SECRET=s",
		"SINGULARITYENV_A=old", "APPTAINERENV_A=new=er", "SINGULARITYENV_LANG=de_DE", "SINGULARITYENV_=x",
	}
	header := recipe.Header{{Key: "Bootstrap", Value: "yum"}, {Key: "OSVersion", Value: "8"}}
	want := []string{
		"A=new=er",
		"APPTAINER_CONTAINER=/",
		"APPTAINER_ENVIRONMENT=/.singularity.d/env/91-environment.sh",
		"APPTAINER_LABELS=/.build.labels",
		"APPTAINER_NAME=rootfs",
		"APPTAINER_ROOTFS=/",
		"HOME=/root",
		"LANG=de_DE",
		"NO_PROXY=.x",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"SINGULARITY_CONTAINER=/",
		"SINGULARITY_DEFFILE_BOOTSTRAP=yum",
		"SINGULARITY_DEFFILE_OSVERSION=8",
		"SINGULARITY_ENVIRONMENT=/.singularity.d/env/91-environment.sh",
		"SINGULARITY_LABELS=/.build.labels",
		"SINGULARITY_NAME=rootfs",
		"SINGULARITY_ROOTFS=/",
		"TERM=vt100",
		"http_proxy=http://p:1",
	}
	if diff := cmp.Diff(want, Environ(host, header)); diff != "" {
		t.Errorf("Environ (-want +got):\n%s", diff)
	}
	got := strings.Join(HostEnviron([]string{"SECRET=s", "APPTAINER_ROOTFS=/other"}, "/t", header), "\n")
	for _, kv := range []string{"SECRET=s", "APPTAINER_ROOTFS=/t", "SINGULARITY_ROOTFS=/t", "SINGULARITY_DEFFILE_OSVERSION=8",
		"APPTAINER_ENVIRONMENT=/t/.singularity.d/env/91-environment.sh", "SINGULARITY_ENVIRONMENT=/t/.singularity.d/env/91-environment.sh",
		"APPTAINER_LABELS=/t/.build.labels", "SINGULARITY_LABELS=/t/.build.labels"} {
		if !strings.Contains(got, kv) {
			t.Errorf("HostEnviron lacks %s:\n%s", kv, got)
		}
	}
}

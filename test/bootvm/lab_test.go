// Package bootvm tests the whole way of a user: it builds the programs and the Debian recipe, boots
// the image in qemu machines with real firmware and kernel, and checks the machines from inside. It
// requires root, qemu and a Debian mirror, and runs only with NETROOT_BOOT=1. What is too long for
// every run of CI is run with NETROOT_BOOT_LONG=1 as well, as make soak does.
//
// A test here begins with needLab and t.Parallel, because two machines run at once (see [cores]),
// and asks one machine many questions instead of booting many machines. [machine] boots a machine;
// its figures become a row of the table at the end of the run.
package bootvm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bootLimit is the limit for a test that boots one machine. An emulated machine takes a minute if
// it has a core for itself.
const bootLimit = 12 * time.Minute

// lab is what the tests share: the programs, and a state directory with the Debian image.
var lab struct {
	once    sync.Once
	err     error
	dir     string // directory for everything
	netroot string
	state   string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := table.print(os.Stdout, os.Getenv("NETROOT_BOOT_TABLE")); err != nil {
		fmt.Fprintln(os.Stderr, "table of boots:", err)
		code = 1
	}
	if lab.dir != "" {
		os.RemoveAll(lab.dir)
	}
	os.Exit(code)
}

// needLab builds the programs and the image once. NETROOT_BOOT_STATE may name a state directory to
// use and keep instead of a new one.
func needLab(t *testing.T) {
	t.Helper()
	if os.Getenv("NETROOT_BOOT") != "1" {
		t.Skip("boots machines in qemu for minutes; set NETROOT_BOOT=1 to run it (make test does)")
	}
	if os.Geteuid() != 0 {
		t.Skip("building a tree requires root")
	}
	needTools(t, "qemu-system-x86_64", "mksquashfs", "mmdebstrap")
	lab.once.Do(func() { lab.err = setUpLab() })
	if lab.err != nil {
		t.Fatal(lab.err)
	}
}

// needLong is needLab for a test that is too long for every run of CI.
func needLong(t *testing.T) {
	t.Helper()
	if os.Getenv("NETROOT_BOOT_LONG") != "1" {
		t.Skip("builds another system and boots it; set NETROOT_BOOT=1 and NETROOT_BOOT_LONG=1 to run it (make soak does)")
	}
	needLab(t)
}

// needTools skips a test if an external program is missing. Where CI installs the programs, the
// test fails.
func needTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: .ci/setup installs it", tool)
			}
			t.Skipf("%s is missing", tool)
		}
	}
}

func setUpLab() error {
	var err error
	// Trees lie there like those of a real installation, and not in a memory file system.
	if lab.dir, err = os.MkdirTemp("/var/tmp", "netroot-bootvm-"); err != nil {
		return err
	}
	lab.netroot = filepath.Join(lab.dir, "netroot")
	lab.state = filepath.Join(lab.dir, "state")
	if dir := os.Getenv("NETROOT_BOOT_STATE"); dir != "" {
		lab.state = dir
	}
	for _, program := range []string{"netroot", "netroot-init"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(lab.dir, program), "netroot/cmd/"+program)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, out)
		}
	}
	if os.Getenv("NETROOT_BOOT_STATE") != "" && run(context.Background(), "plan", "debian12").err == nil {
		return nil
	}
	r := run(context.Background(), "build", "debian12")
	fmt.Println(r.stdout)
	if r.err != nil {
		return fmt.Errorf("netroot build debian12: %w\n%s", r.err, r.stderr)
	}
	return nil
}

// result is the result of a command, including the console of the machine that it booted.
type result struct {
	stdout, stderr, console string
	status                  int
	err                     error // also set if the status is not 0
}

// all returns the output to show when a command has failed.
func (r result) all() string {
	return fmt.Sprintf("%v\nstdout:\n%s\nstderr:\n%s\nconsole:\n%s", r.err, r.stdout, r.stderr, r.console)
}

// command returns netroot with the lab's state and the repository's configuration. When ctx ends,
// it gets a Ctrl-C.
func command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, lab.netroot, append([]string{"--state", lab.state}, args...)...)
	cmd.Dir = "../.." // directory of netroot.yaml
	cmd.Env = append(os.Environ(), "no_proxy="+strings.TrimPrefix(os.Getenv("no_proxy")+",127.0.0.1", ","), "NETROOT_RUN_DIR="+lab.state)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// finish runs a command and returns its result.
func finish(cmd *exec.Cmd) result {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return result{stdout: out.String(), stderr: errs.String(), status: cmd.ProcessState.ExitCode(), err: err}
}

// run runs netroot and returns its result.
func run(ctx context.Context, args ...string) result { return finish(command(ctx, args...)) }

// limit takes a core for the test (see [cores]), and bounds its time from then on.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	processors.take(t)
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// freePort returns an address of loopback on which a server can be started repeatedly.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startServe starts "netroot serve" with one transport and further flags, and returns when it
// listens. It is killed when the test ends, or by the test with [stop].
func startServe(t *testing.T, transport, address string, more ...string) *exec.Cmd {
	t.Helper()
	args := append([]string{"serve", "--http", "127.0.0.1:0"}, more...)
	for _, name := range []string{"nbd", "nvme", "iscsi", "nfs"} {
		if name == transport {
			args = append(args, "--"+name, address)
		} else {
			args = append(args, "--"+name, "")
		}
	}
	cmd := command(t.Context(), args...)
	startCommand(t, cmd)
	return cmd
}

// startCommand starts a "netroot serve" command, and returns when it listens.
func startCommand(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(cmd) })
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(pipe)
		serving := false
		for !serving && lines.Scan() { // messages about layers may come first
			serving = strings.Contains(lines.Text(), "netroot: serving ")
		}
		ready <- serving
		io.Copy(io.Discard, pipe)
	}()
	if !<-ready {
		t.Fatal("netroot serve did not start")
	}
}

// stop kills a process without warning, as a power failure would.
func stop(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// waitFor waits until a file contains all words.
func waitFor(ctx context.Context, file string, words ...string) error {
	missing := ""
	if until(ctx, func() bool {
		text, _ := os.ReadFile(file)
		missing = ""
		for _, w := range words {
			if !bytes.Contains(text, []byte(w)) {
				missing = w
			}
		}
		return missing == ""
	}) {
		return nil
	}
	return errors.New("never contained " + missing)
}

// until calls ask until it returns true, and returns false if the context ends first.
func until(ctx context.Context, ask func() bool) bool {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// treeDir returns the tree of the Debian image. It must not be changed.
func treeDir() string { return filepath.Join(lab.state, "trees", "debian12") }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package bootvm

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// machine is a boot of an image by "netroot vm". Fields that are empty are left
// to it, and to the label.
type machine struct {
	Label     string // empty: debian12
	Transport string // these four are flags of "netroot vm" with the same names
	Firmware  string
	Pack      string
	Initramfs string
	Args      []string // more of its flags
}

// boot boots the machine, runs the script in it as root by ssh, and powers it
// off. The script's status is the result's.
func (m machine) boot(ctx context.Context, t *testing.T, script string) result {
	t.Helper()
	return m.start(ctx, t, script).wait()
}

// start is boot for a test that does something meanwhile: it returns when the
// script has begun, or the boot has failed, which wait tells.
func (m machine) start(ctx context.Context, t *testing.T, script string) *booted {
	t.Helper()
	b := m.launch(ctx, t, "--ssh-port", "0", "--run", greeting+script)
	select {
	case <-b.login:
	case <-b.ended:
	}
	return b
}

// launch starts "netroot vm" with the machine's flags and others.
func (m machine) launch(ctx context.Context, t *testing.T, flags ...string) *booted {
	t.Helper()
	label := m.Label
	if label == "" {
		label = "debian12"
	}
	b := &booted{serial: filepath.Join(t.TempDir(), "console.log"), login: make(chan struct{}), ended: make(chan struct{})}
	b.row = table.add(t.Name(), label, m)
	args := slices.Concat([]string{"vm", label, "--serial", b.serial}, flags, m.Args)
	for name, value := range map[string]string{"transport": m.Transport, "firmware": m.Firmware, "pack": m.Pack, "initramfs": m.Initramfs} {
		if value != "" {
			args = append(args, "--"+name, value)
		}
	}
	b.cmd = command(ctx, args...)
	b.cmd.Stdout, b.cmd.Stderr = b, &b.stderr
	b.started = time.Now()
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		b.err = b.cmd.Wait()
		close(b.ended)
	}()
	t.Cleanup(b.end) // of a test that has failed
	return b
}

// greeting is the first line that a machine prints, and not part of what its
// script prints: what it finds that it booted by, for the table.
const greeting = `echo "@ $([ -d /sys/firmware/efi ] && echo uefi || echo bios) $(findmnt -no FSTYPE /live/image || findmnt -no FSTYPE / || echo -) $(tr ' ' '\n' < /proc/cmdline | grep -E '^(net)?root=' | tail -n 1)"
`

// booted is a machine whose script runs.
type booted struct {
	row     *row
	cmd     *exec.Cmd
	serial  string // file of its console
	started time.Time
	login   chan struct{} // closed when it has greeted
	ended   chan struct{} // closed after err is set
	err     error
	stderr  bytes.Buffer

	mu  sync.Mutex
	out bytes.Buffer
}

// Write takes what the machine prints.
func (b *booted) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.out.Write(p)
	select {
	case <-b.login:
	default:
		if line, _, ok := bytes.Cut(b.out.Bytes(), []byte("\n")); ok {
			b.row.loggedIn(time.Since(b.started), string(line))
			b.out.Next(len(line) + 1)
			close(b.login)
		}
	}
	return len(p), nil
}

// said is what the script has printed so far.
func (b *booted) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

// wait waits until the script has ended and the machine is off.
func (b *booted) wait() result {
	<-b.ended
	console, _ := os.ReadFile(b.serial)
	r := result{stdout: b.said(), stderr: b.stderr.String(), console: string(console), status: b.cmd.ProcessState.ExitCode(), err: b.err}
	b.row.ended(r)
	return r
}

// end ends the machine from outside.
func (b *booted) end() {
	b.cmd.Cancel()
	<-b.ended
}

// note adds words to the machine's row of the table: how long its longest stall was, for example.
func (b *booted) note(format string, args ...any) { b.row.note(format, args...) }

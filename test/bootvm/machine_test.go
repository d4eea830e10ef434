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

// machine describes a boot of an image by "netroot vm". An empty field means the default of the
// command or of the label.
type machine struct {
	Label     string // empty: debian12
	Transport string // these four are flags of "netroot vm" with the same names
	Firmware  string
	Pack      string
	Initramfs string
	Args      []string // further flags
}

// boot boots the machine, runs the script in it as root over ssh, and powers it off. The status of
// the script is the status of the result.
func (m machine) boot(ctx context.Context, t *testing.T, script string) result {
	t.Helper()
	return m.start(ctx, t, script).wait()
}

// start is boot for a test that does something meanwhile. It returns when the script has begun or
// the boot has failed, which wait reports.
func (m machine) start(ctx context.Context, t *testing.T, script string) *booted {
	t.Helper()
	b := m.launch(ctx, t, "--ssh-port", "0", "--run", greeting+script)
	select {
	case <-b.login:
	case <-b.ended:
	}
	return b
}

// launch starts "netroot vm" with the machine's flags and further flags.
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
	t.Cleanup(b.end) // for a test that has failed
	return b
}

// greeting makes a machine print a first line, which is not part of the output of its script. The
// line says how the machine was booted, for the table.
const greeting = `echo "@ $([ -d /sys/firmware/efi ] && echo uefi || echo bios) $(findmnt -no FSTYPE /live/image || findmnt -no FSTYPE / || echo -) $(tr ' ' '\n' < /proc/cmdline | grep -E '^(net)?root=' | tail -n 1)"
`

// booted is a machine that runs its script.
type booted struct {
	row     *row
	cmd     *exec.Cmd
	serial  string // file with its console
	started time.Time
	login   chan struct{} // closed when the greeting was received
	ended   chan struct{} // closed after err is set
	err     error
	stderr  bytes.Buffer

	mu  sync.Mutex
	out bytes.Buffer
}

// Write receives the output of the machine.
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

// said returns what the script has printed so far.
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

// note adds a remark to the machine's row of the table, for example the length of its longest
// stall.
func (b *booted) note(format string, args ...any) { b.row.note(format, args...) }

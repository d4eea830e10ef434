// Package vm runs diskless machines in qemu: for the command that boots a user's image, and for
// tests that boot real firmware and kernels.
//
// A machine requires neither root privileges nor a bridge nor a DHCP server. qemu's user network
// answers DHCP. The answer names an iPXE script on an HTTP server of this host. The machine reaches
// everything that listens on this host's loopback as 10.0.2.2 (GuestHost). iPXE comes with the
// machine's network card, on BIOS and on UEFI.
//
// The package does not serve anything and does not know images. Package serve does; the caller
// connects the two.
package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/boot"
	"netroot/internal/gate"
)

// GuestHost is the address that a machine uses for this host's 127.0.0.1.
const GuestHost = "10.0.2.2"

// Accel is the way in which qemu runs the machine's processor.
type Accel string

// These are the accelerators.
const (
	AccelAuto Accel = "auto" // KVM if it boots a kernel, otherwise TCG
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg" // emulation: works everywhere, ten times slower
)

// Accels are all accelerators.
func Accels() []Accel { return []Accel{AccelAuto, AccelKVM, AccelTCG} }

// Config describes a machine. The zero value of each field is a useful default.
type Config struct {
	// Bootfile is the URL of an iPXE script, as the machine reaches it, or a file below TFTP;
	// at most 127 bytes.
	Bootfile string
	TFTP     string        // directory that qemu serves over TFTP to this machine; empty: no TFTP
	Firmware boot.Firmware // empty: boot.BIOS (SeaBIOS); boot.UEFI is OVMF without secure boot
	Accel    Accel         // empty: AccelAuto
	Kernel   string        // Linux kernel with which AccelAuto tests KVM; empty: use TCG
	Mem      int           // memory in MiB; 0: 1024
	SSHPort  int           // port of 127.0.0.1 for port 22 of the machine; 0: a free one
	Forward  map[int]int   // ports of the machine to ports of 127.0.0.1
	Reboot   bool          // a machine that reboots starts again; otherwise it ends
	// Args are further arguments for qemu. A display or drives among them get the devices that
	// they require.
	Args []string
	Dir  string // working directory of qemu; empty: the caller's

	// Stdin and Serial are the two directions of the serial console. If both are a terminal,
	// the console is interactive, and Ctrl-C ends the machine. A Serial that is an *os.File is
	// passed to qemu directly.
	Stdin  *os.File
	Serial io.Writer
	// SerialLog is a file that also receives the output of the serial console. It is kept.
	// Empty: the output is not kept.
	SerialLog string

	// Wrap, when set, changes the command that runs qemu before it is started, for example to have
	// it run in namespaces. The function that it returns is called when the command has been
	// started, or could not be.
	Wrap func(*exec.Cmd) (started func(), err error)

	// Message receives messages for the user, for example that KVM does not work here. It may
	// be nil.
	Message func(string)
}

// Machine is a running qemu.
type Machine struct {
	// SSHPort is the port of 127.0.0.1 that is forwarded to port 22 of the machine.
	SSHPort int
	// Accel is the chosen accelerator, AccelKVM or AccelTCG.
	Accel Accel

	cmd    *exec.Cmd
	qmp    *QMP
	dir    string // directory of this run, with the firmware variables
	log    string // file with the output of the serial console
	stderr tailBuffer
	done   chan struct{}
	tail   string // end of the serial log; valid after done
	err    error  // valid after done
}

const (
	defaultMem = 1024            // MiB
	killDelay  = 5 * time.Second // after SIGTERM
	tailSize   = 3000            // bytes of the console's output in an error
)

// Start starts a machine and returns when qemu runs it. When ctx ends, qemu is told to quit, and
// killed if it still runs 5 s later. If this process dies, qemu quits. Errors say what to install
// or change.
func Start(ctx context.Context, cfg Config) (*Machine, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	tools, err := findTools(ctx, cfg.Firmware)
	if err != nil {
		return nil, err
	}
	if cfg.Accel == AccelAuto {
		cfg.Accel = chooseAccel(ctx, tools.qemu, cfg)
	}
	if cfg.SSHPort, err = freePort(cfg.SSHPort); err != nil {
		return nil, err
	}
	m := &Machine{SSHPort: cfg.SSHPort, Accel: cfg.Accel, done: make(chan struct{})}
	if m.dir, err = os.MkdirTemp("", "netroot-vm-"); err != nil {
		return nil, fmt.Errorf("make a directory for the machine: %w", err)
	}
	m.log = cmp.Or(cfg.SerialLog, filepath.Join(m.dir, "serial.log"))
	if err := m.start(ctx, cfg, tools); err != nil {
		os.RemoveAll(m.dir)
		return nil, err
	}
	if err := m.ready(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

func (c Config) withDefaults() Config {
	if c.Firmware == "" {
		c.Firmware = boot.BIOS
	}
	if c.Accel == "" {
		c.Accel = AccelAuto
	}
	if c.Mem == 0 {
		c.Mem = defaultMem
	}
	if c.Message == nil {
		c.Message = func(string) {}
	}
	return c
}

func (c Config) check() error {
	switch {
	case !slices.Contains(boot.Firmwares(), c.Firmware):
		return fmt.Errorf("unknown firmware %q: use bios or uefi", c.Firmware)
	case c.Accel != AccelAuto && c.Accel != AccelKVM && c.Accel != AccelTCG:
		return fmt.Errorf("unknown acceleration %q: use auto, kvm or tcg", c.Accel)
	case c.Mem < 0:
		return fmt.Errorf("memory of %d MiB is not possible: use more than 0", c.Mem)
	case len(c.Bootfile) > 127: // the "file" field of BOOTP, RFC 951 section 3
		return fmt.Errorf("boot file %s: the URL has %d bytes, but DHCP allows 127: use a shorter name", c.Bootfile, len(c.Bootfile))
	}
	return checkArgs(c.Args)
}

// freePort checks that the port is free for qemu. It replaces port 0 with a free port.
func freePort(port int) (int, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return 0, fmt.Errorf("127.0.0.1:%d is in use: choose another port with --ssh-port", port)
	case err != nil:
		return 0, fmt.Errorf("find a port for ssh: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// start starts qemu, and the goroutine that waits for its end.
func (m *Machine) start(ctx context.Context, cfg Config, tools tools) error {
	args, err := m.arguments(cfg, tools)
	if err != nil {
		return err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd := exec.CommandContext(ctx, tools.qemu, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, cfg.Serial, &m.stderr
	if cfg.Stdin != nil {
		cmd.Stdin = cfg.Stdin // a nil *os.File would not be a nil io.Reader
	}
	cmd.Dir = cfg.Dir
	cmd.ExtraFiles = []*os.File{theirs} // descriptor 3
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	// SIGTERM and not SIGKILL, so that qemu restores the terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	attempted := func() {}
	if cfg.Wrap != nil {
		if attempted, err = cfg.Wrap(cmd); err != nil {
			ours.Close()
			return fmt.Errorf("start qemu: %w", err)
		}
	}
	m.cmd, m.qmp = cmd, newQMP(ours)
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the child ends, so that
		// thread must live.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		attempted()
		started <- err
		if err == nil {
			m.wait(ctx)
		}
	}()
	if err := <-started; err != nil {
		m.qmp.Close()
		return fmt.Errorf("start qemu: %w", err)
	}
	return nil
}

// socketPair returns the two ends of a connection for QMP. A socket without a path cannot have a
// name that is too long, be left behind, or clash with another one.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for qemu: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "qmp")
	f := os.NewFile(uintptr(fds[0]), "qmp")
	defer f.Close()
	if ours, err = net.FileConn(f); err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make a socket for qemu: %w", err)
	}
	return ours, theirs, nil
}

// wait waits for the end of qemu and sets err and tail.
func (m *Machine) wait(ctx context.Context) {
	err := m.cmd.Wait()
	m.qmp.Close()
	m.tail = readTail(m.log, tailSize)
	os.RemoveAll(m.dir)
	switch {
	case ctx.Err() != nil:
		m.err = context.Cause(ctx)
	case err != nil:
		m.err = fmt.Errorf("qemu: %w%s", err, indent(m.stderr.String()))
	}
	close(m.done)
}

// ready returns when qemu answers.
func (m *Machine) ready(ctx context.Context) error {
	err := m.qmp.handshake(ctx)
	if err == nil {
		return nil
	}
	m.Kill()
	if m.err != nil {
		return m.err // the reason why qemu ended is the better error
	}
	return fmt.Errorf("qemu: %w%s", err, indent(m.stderr.String()))
}

// Owns reports whether qemu has the socket of this number (stat(2)): whether a connection to a
// server of this host is the machine's.
func (m *Machine) Owns(inode uint64) bool {
	select {
	case <-m.done:
		return false // the number of its process may be another's
	default:
		return gate.Has(m.cmd.Process.Pid, inode)
	}
}

// QMP returns the connection to qemu's monitor.
func (m *Machine) QMP() *QMP { return m.qmp }

// Done returns a channel that is closed when the machine has ended and its files are removed.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Wait waits for the end of the machine. It returns nil if the machine was switched off, the cause
// of ctx's end if that ended it, and qemu's error otherwise.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// Kill ends the machine at once, as a power failure would, and waits until it has ended.
func (m *Machine) Kill() {
	m.cmd.Process.Signal(syscall.SIGKILL) // an error means that it has already ended
	<-m.done
}

// Tail returns the last output of the machine's serial console, as plain text.
func (m *Machine) Tail() string {
	select {
	case <-m.done:
		return m.tail
	default:
		return readTail(m.log, tailSize)
	}
}

// ended returns the error of an operation that required a running machine.
func (m *Machine) ended() error {
	why := "the machine has ended"
	if m.err != nil {
		why += ": " + m.err.Error()
	}
	return errors.New(why + "; the end of its console:" + indent(m.tail))
}

// indent sets a text of several lines off from a message.
func indent(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return "\n    " + strings.ReplaceAll(text, "\n", "\n    ")
}

// Package vm runs diskless machines in qemu: for the verb that shows a user's image booting, and for tests that boot real
// firmware and kernels.
//
// A machine needs no root, no bridge and no DHCP server: qemu's user network answers DHCP, and its answer names an iPXE
// script on an HTTP server of this host, which the machine reaches as 10.0.2.2 (GuestHost), like everything else that
// listens on this host's loopback. iPXE comes with the machine's network card, on BIOS as on UEFI.
//
// It serves nothing and knows no image; package serve does, and the caller brings the two together.
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
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// GuestHost is the address by which a machine reaches what listens on this host's 127.0.0.1.
const GuestHost = "10.0.2.2"

// Firmware is what the machine starts with.
type Firmware string

// The firmwares qemu has for a PC.
const (
	BIOS Firmware = "bios" // SeaBIOS
	UEFI Firmware = "uefi" // OVMF, without secure boot
)

// Accel is how the machine's processor is made.
type Accel string

// The accelerators.
const (
	AccelAuto Accel = "auto" // KVM where it boots a kernel, and else TCG
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg" // emulation: everywhere, ten times slower
)

// Config describes a machine. The zero value of each field is a good choice.
type Config struct {
	Bootfile string      // URL of an iPXE script, as the machine reaches it, or a file below TFTP; at most 127 bytes
	TFTP     string      // directory of the TFTP server that qemu is for this machine; empty: there is none
	Firmware Firmware    // empty: BIOS
	Accel    Accel       // empty: AccelAuto
	Kernel   string      // file of a Linux kernel, with which AccelAuto tries KVM; empty: AccelAuto is AccelTCG
	Mem      int         // MiB; 0: 1024
	SSHPort  int         // port of 127.0.0.1 that leads to the machine's port 22; 0: a free one
	Forward  map[int]int // more ports of the machine, and the port of 127.0.0.1 that leads to each
	Reboot   bool        // a machine that reboots starts again; else it ends
	Args     []string    // more arguments for qemu; a display or drives among them get what they need
	Dir      string      // where qemu runs, and relative files in Args begin; empty: here

	// Stdin and Serial are the two directions of the serial console. Where both are a terminal, it is an interactive one,
	// and Ctrl-C ends the machine. A Serial that is an *os.File is handed to qemu as it is.
	Stdin  *os.File
	Serial io.Writer
	// SerialLog is a file that gets what the serial console says, too, and stays. Empty: none stays.
	SerialLog string

	// Message is told what a user wants to know, such as that KVM does not work here. May be nil.
	Message func(string)
}

// Machine is a running qemu.
type Machine struct {
	// SSHPort is the port of 127.0.0.1 that leads to the machine's port 22.
	SSHPort int
	// Accel is what was chosen, AccelKVM or AccelTCG.
	Accel Accel

	cmd    *exec.Cmd
	qmp    *QMP
	dir    string // of this run: firmware variables
	log    string // file of the serial console
	stderr tailBuffer
	done   chan struct{}
	tail   string // of the serial log, when done
	err    error  // when done
}

const (
	defaultMem = 1024            // MiB
	killDelay  = 5 * time.Second // after SIGTERM
	tailSize   = 3000            // bytes of console that an error shows
)

// Start starts a machine and returns when qemu has it running. When ctx ends, qemu is asked to quit, and killed if it has
// not 5 s later; if this process dies, qemu quits. Errors say what to install or to change.
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
		return nil, fmt.Errorf("directory for the machine: %w", err)
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
		c.Firmware = BIOS
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
	case c.Firmware != BIOS && c.Firmware != UEFI:
		return fmt.Errorf("firmware %q: choose bios or uefi", c.Firmware)
	case c.Accel != AccelAuto && c.Accel != AccelKVM && c.Accel != AccelTCG:
		return fmt.Errorf("acceleration %q: choose auto, kvm or tcg", c.Accel)
	case c.Mem < 0:
		return fmt.Errorf("memory of %d MiB: choose more than 0", c.Mem)
	case len(c.Bootfile) > 127: // the "file" field of BOOTP, RFC 951 section 3
		return fmt.Errorf("boot file %s: its URL has %d bytes and DHCP carries 127; choose a shorter name", c.Bootfile, len(c.Bootfile))
	}
	return checkArgs(c.Args)
}

// freePort makes sure that qemu will get the port, before it starts. Port 0 becomes one that is free.
func freePort(port int) (int, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return 0, fmt.Errorf("127.0.0.1:%d is in use; choose another with --ssh-port", port)
	case err != nil:
		return 0, fmt.Errorf("port for ssh: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// FreePorts finds ports of 127.0.0.1 that are free, for Forward.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("free port: %w", err)
		}
		defer l.Close() // all at once, for none to be found twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
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
	// SIGTERM and not SIGKILL, so that qemu puts the terminal back as it was.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	m.cmd, m.qmp = cmd, newQMP(ours)
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread ends that started the child, so that thread has to stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
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

// socketPair returns the two ends of a connection for QMP: no path, so nothing to be too long, left behind or in another's
// way.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket for qemu: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "qmp")
	f := os.NewFile(uintptr(fds[0]), "qmp")
	defer f.Close()
	if ours, err = net.FileConn(f); err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socket for qemu: %w", err)
	}
	return ours, theirs, nil
}

// wait collects qemu's end.
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
		return m.err // why it ended says more than that it did not answer
	}
	return fmt.Errorf("qemu: %w%s", err, indent(m.stderr.String()))
}

// QMP is the connection to qemu's monitor.
func (m *Machine) QMP() *QMP { return m.qmp }

// Done is closed when the machine has ended and nothing of it is left.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Wait waits for the machine's end. It returns nil when the machine was switched off, the cause of ctx's end when that
// ended it, and else qemu's error.
func (m *Machine) Wait() error {
	<-m.done
	return m.err
}

// Kill ends the machine at once, as if its plug were pulled, and waits until it is gone.
func (m *Machine) Kill() {
	m.cmd.Process.Signal(syscall.SIGKILL) // an error means that it has ended
	<-m.done
}

// Tail is the end of what the machine wrote to its serial console, as plain text.
func (m *Machine) Tail() string {
	select {
	case <-m.done:
		return m.tail
	default:
		return readTail(m.log, tailSize)
	}
}

// ended is the error for something that needed the machine to run.
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

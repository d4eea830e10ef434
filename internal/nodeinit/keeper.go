package nodeinit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keeperName is the keeper's argv[0]. A process of the initramfs whose name
// begins with '@' is spared when systemd kills all others at shutdown: the root
// is needed to the last (systemd, "Storage Daemons for the Root File System").
const keeperName = "@netroot-keeper"

// keeperState is handed to the keeper on its standard input.
type keeperState struct {
	Device *nbdDevice // nil: the kernel keeps the root's connection itself
	Net    *netConfig
}

// needed tells whether a keeper has anything to do.
func (s keeperState) needed() bool {
	return s.Device != nil || s.Net != nil && s.Net.Lease != nil
}

// IsKeeper tells whether this process was started as the keeper.
func IsKeeper(argv0 string) bool { return argv0 == keeperName }

// startKeeper starts the keeper. Its program, like all it needs later, lies in
// memory; conn, where there is a device, is watched for the connection's end.
func startKeeper(state keeperState, conn *os.File) (*exec.Cmd, error) {
	text, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer kmsg.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{keeperName},
		Env:         []string{"GOMAXPROCS=1"},
		Dir:         "/",
		Stdin:       bytes.NewReader(text),
		Stdout:      kmsg,
		Stderr:      kmsg,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if conn != nil {
		cmd.ExtraFiles = []*os.File{conn}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the keeper: %w", err)
	}
	// Spared by the OOM killer. Set here: its own /proc may be gone before it looks.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("-1000"), 0); err != nil {
		return nil, fmt.Errorf("protect the keeper: %w", err)
	}
	return cmd, nil
}

// Keep is the keeper's life: it renews the address's lease and connects the
// root's device again whenever its connection ends. It returns only when what
// it was given makes no sense.
func Keep(stdin io.Reader) error {
	log := &console{kmsg: os.Stderr}
	var state keeperState
	if err := json.NewDecoder(stdin).Decode(&state); err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	// Never swapped out to where it would itself be needed. ONFAULT: what Go
	// reserves but does not use takes no memory.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log.detail("keeper", fmt.Sprintf("lock memory: %v", err))
	}
	ctx := context.Background()
	d := state.Device
	if d == nil {
		keepLease(ctx, log, *state.Net)
		return errors.New("keeper: the lease has no end, there is nothing to keep")
	}
	if state.Net != nil && state.Net.Lease != nil {
		go keepLease(ctx, log, *state.Net)
	}
	d.conn = os.NewFile(3, "nbd")
	d.server = d.Addresses[0]
	for {
		if err := hangUp(d.conn); err != nil {
			return fmt.Errorf("keeper: watch the connection: %w", err)
		}
		d.reconnect(ctx, log)
	}
}

// hangUp blocks until the connection has ended, from either side: the peer's
// end, a reset, a time-out of TCP, or the kernel's NBD driver that gave it up.
func hangUp(conn *os.File) error {
	fds := []unix.PollFd{{Fd: int32(conn.Fd()), Events: unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case fds[0].Revents&unix.POLLNVAL != 0:
			return unix.EBADF
		default:
			return nil
		}
	}
}

// reconnect returns when the device has a living connection again. It tries
// for as long as it takes: reads of the root wait, and nothing is lost.
func (d *nbdDevice) reconnect(ctx context.Context, log *console) {
	lost := time.Now()
	d.conn.Close()
	log.say("keeper", fmt.Sprintf("the connection to %s ended; reads of the root wait until there is another", d.server))
	said := ""
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := d.again(ctx)
		if err == nil {
			log.say("keeper", fmt.Sprintf("connected to %s again after %.1f s", d.server, time.Since(lost).Seconds()))
			return
		}
		if err.Error() != said { // once for each reason
			said = err.Error()
			log.fail("keeper", err)
		}
		wait(ctx, pause)
	}
}

// again makes one attempt with each server.
func (d *nbdDevice) again(ctx context.Context) error {
	size := d.Size
	if _, err := d.dialAny(ctx); err != nil {
		return err
	}
	var err error
	if d.Size != size {
		err = fmt.Errorf("%s now serves %d bytes as export %q, not the %d of this root: serve the image this node runs", d.server, d.Size, d.Export, size)
	} else {
		err = d.reconfigure()
	}
	if err != nil {
		d.Size = size
		d.conn.Close()
	}
	return err
}

// keepLease renews the lease at half its time, and while that fails at a
// tenth of it. The interface keeps its address whatever the answer is.
func keepLease(ctx context.Context, log *console, cfg netConfig) {
	l := cfg.Lease
	next := l.Duration / 2
	for l.Duration > 0 {
		wait(ctx, max(next, 10*time.Second))
		iface, err := net.InterfaceByIndex(cfg.Index)
		if err == nil {
			var renewed *lease
			if renewed, err = renew(ctx, iface.Name, l); err == nil {
				l, next = renewed, renewed.Duration/2
				log.detail("keeper", fmt.Sprintf("lease of %s renewed for %s", cfg.Address.Addr(), l.Duration))
				continue
			}
		}
		next = l.Duration / 10
		log.fail("keeper", fmt.Errorf("renew the lease of %s: %s", cfg.Address.Addr(), strings.TrimSpace(err.Error())))
	}
}

package nodeinit

import (
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
	"sync"
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
	NBD   *nbdDevice   // at most one of these two;
	ISCSI *iscsiDevice // none: the kernel keeps the root's connection itself
	Net   *netConfig
	Live  bool // the root is an overlay over a live tree, see keepFresh
}

// firstFile is the descriptor of the first file that startKeeper hands over.
const firstFile = 3

// kept is a device whose connection the keeper makes again when it ended.
type kept interface {
	// inherit takes over the files that startKeeper was given, from descriptor fd on.
	inherit(fd uintptr)
	// watch blocks until the connection has ended, and lets go of it.
	watch() error
	// again makes one attempt with each server to give the device another connection.
	again(ctx context.Context) error
	// peer is the server that the connection leads to, or led to.
	peer() string
}

// device is what there is to keep, or nil.
func (s keeperState) device() kept {
	switch {
	case s.NBD != nil:
		return s.NBD
	case s.ISCSI != nil:
		return s.ISCSI
	}
	return nil
}

// needed tells whether a keeper has anything to do.
func (s keeperState) needed() bool {
	return s.device() != nil || s.Live || s.Net != nil && s.Net.Lease != nil
}

// IsKeeper tells whether this process was started as the keeper.
func IsKeeper(argv0 string) bool { return argv0 == keeperName }

// startKeeper starts the keeper. Its program, like all it needs later, lies in
// memory; the files are for the device to inherit. An overlay has no device, and
// its top directory is the one file.
func startKeeper(state keeperState, files ...*os.File) (*exec.Cmd, error) {
	if state.Live {
		root, err := os.Open(newRoot)
		if err != nil {
			return nil, err
		}
		defer root.Close()
		files = append(files, root)
	}
	text, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer kmsg.Close()
	stdin, err := filled(text)
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{keeperName},
		Env:         []string{"GOMAXPROCS=1"},
		Dir:         "/",
		Stdin:       stdin,
		Stdout:      kmsg,
		Stderr:      kmsg,
		ExtraFiles:  files,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the keeper: %w", err)
	}
	// Spared by the OOM killer. Set here: its own /proc may be gone before it looks.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("-1000"), 0); err != nil {
		dismiss(cmd)
		return nil, fmt.Errorf("protect the keeper: %w", err)
	}
	return cmd, nil
}

// dismiss ends a keeper that another will stand in for: two of them would both
// connect the device.
func dismiss(keeper *exec.Cmd) {
	keeper.Process.Kill()
	keeper.Wait()
}

// filled is a pipe with a text in it, for a process that outlives this one.
func filled(text []byte) (*os.File, error) {
	const pipe = 64 << 10 // what fits in: pipe(7)
	if len(text) > pipe {
		return nil, fmt.Errorf("%d bytes of orders for the keeper are more than a pipe holds", len(text))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, err = w.Write(text)
	return r, errors.Join(err, w.Close())
}

// keepAddress starts the keeper when there is a lease to renew, or an overlay
// over a live tree, which is mounted: all that is left to do where the kernel
// itself keeps the root's connection.
func (n *node) keepAddress() error {
	state := keeperState{Net: n.net, Live: n.live()}
	if !state.needed() {
		return nil
	}
	_, err := startKeeper(state)
	return err
}

// lockMemory has this process never swapped out to where it would itself be
// needed. What Go reserves but does not use takes no memory, but for kernels
// without MCL_ONFAULT, which are those before 4.4 (mlockall(2)).
func lockMemory() error {
	const all = unix.MCL_CURRENT | unix.MCL_FUTURE
	err := unix.Mlockall(all | unix.MCL_ONFAULT)
	if err == unix.EINVAL {
		err = unix.Mlockall(all)
	}
	return err
}

// Keep is the keeper's life: it renews the address's lease, connects the root's
// device again whenever its connection ends, and keeps an overlay over a live tree
// fresh. It returns only when what it was given makes no sense, or has an end.
func Keep(stdin io.Reader) error {
	log := &console{kmsg: os.Stderr}
	var state keeperState
	if err := json.NewDecoder(stdin).Decode(&state); err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	if err := lockMemory(); err != nil {
		log.detail("keeper", fmt.Sprintf("lock memory: %v", err))
	}
	ctx := context.Background()
	var besides sync.WaitGroup
	if state.Net != nil && state.Net.Lease != nil {
		besides.Go(func() { keepLease(ctx, log, *state.Net) })
	}
	d := state.device()
	if d == nil {
		if state.Live {
			keepFresh(ctx, log, firstFile)
		}
		besides.Wait()
		return errors.New("keeper: there is nothing left to keep")
	}
	d.inherit(firstFile)
	for {
		if err := d.watch(); err != nil {
			return fmt.Errorf("keeper: watch the connection: %w", err)
		}
		reconnect(ctx, log, d)
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
func reconnect(ctx context.Context, log *console, d kept) {
	lost := time.Now()
	log.say("keeper", fmt.Sprintf("the connection to %s ended; reads of the root wait until there is another", d.peer()))
	said := ""
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		err := d.again(ctx)
		if err == nil {
			log.say("keeper", fmt.Sprintf("connected to %s again after %.1f s", d.peer(), time.Since(lost).Seconds()))
			return
		}
		if err.Error() != said { // once for each reason
			said = err.Error()
			log.fail("keeper", err)
		}
		wait(ctx, pause)
	}
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

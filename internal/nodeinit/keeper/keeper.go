// Package keeper is the process that stays on a node when its root has been switched to: it renews
// the lease of the boot interface's address, reconnects the root's device whenever its connection
// ends, and keeps an overlay over a live tree fresh.
//
// Start runs in the init, Run is the keeper's life. It attaches nothing and mounts nothing; what it
// reads is in memory before the root is there, because it must not depend on the root that it
// keeps. It is not a monitoring agent: it reports to the kernel's log alone.
package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/network"
	"netroot/internal/nodeinit/report"
)

// name is the keeper's argv[0]. systemd spares a process of the initramfs whose name begins with
// '@' when it kills all others at shutdown: the root is needed until the end (systemd, "Storage
// Daemons for the Root File System").
const name = "@netroot-keeper"

// State is what there is to keep. The keeper reads it on its standard input.
type State struct {
	NBD   *attach.NBD   // at most one of these two;
	ISCSI *attach.ISCSI // neither: the kernel itself keeps the root's connection
	Net   *network.Config
	Live  bool // the root is an overlay over a live tree, see keepFresh
}

// Descriptors that Start gives the keeper, besides the standard ones.
const (
	readyFile = 3 + iota // a byte is written to it when the keeper has taken over
	firstFile            // the first of those that the device, or the overlay, inherits
)

// device is a device whose connection the keeper replaces when it has ended.
type device interface {
	// Files are those that the keeper inherits.
	Files() []*os.File
	// Inherit takes over the files in the keeper, from descriptor fd on.
	Inherit(fd uintptr) error
	// Watch blocks until the connection has ended, and closes it.
	Watch() error
	// Reconnect makes one attempt with each server to give the device another connection.
	Reconnect(ctx context.Context) error
	// Peer is the server that the device is, or was, connected to.
	Peer() string
}

// device is the device to keep, or nil.
func (s State) device() device {
	switch {
	case s.NBD != nil:
		return s.NBD
	case s.ISCSI != nil:
		return s.ISCSI
	}
	return nil
}

// Needed reports whether a keeper has anything to do.
func (s State) Needed() bool {
	return s.device() != nil || s.Live || s.Net != nil && s.Net.Lease != nil
}

// IsKeeper reports whether this process was started as the keeper.
func IsKeeper(argv0 string) bool { return argv0 == name }

// Run is the keeper's life. It returns only if its orders are invalid, or nothing is left to keep.
func Run(stdin io.Reader) error {
	step := report.Step{Name: "keeper", To: report.NewConsole(os.Stderr)}
	var state State
	if err := json.NewDecoder(stdin).Decode(&state); err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE)
	d := state.device()
	if d != nil {
		if err := d.Inherit(firstFile); err != nil {
			return fmt.Errorf("keeper: %w", err)
		}
	}
	if err := announce(readyFile); err != nil {
		return fmt.Errorf("keeper: %w", err)
	}
	if err := lockMemory(); err != nil {
		step.Detail(fmt.Sprintf("lock memory: %v", err))
	}
	ctx := context.Background()
	var besides sync.WaitGroup
	if state.Net != nil && state.Net.Lease != nil {
		besides.Go(func() { keepLease(ctx, step, *state.Net, renew) })
	}
	if d == nil {
		if state.Live {
			keepFresh(ctx, step, firstFile)
		}
		besides.Wait()
		return errors.New("keeper: there is nothing left to keep")
	}
	for {
		if err := d.Watch(); err != nil {
			return fmt.Errorf("keeper: watch the connection: %w", err)
		}
		reconnect(ctx, step, d)
	}
}

// announce tells the process that started this one that it has taken over.
func announce(fd uintptr) error {
	f := os.NewFile(fd, "ready")
	_, err := f.Write([]byte{1})
	return errors.Join(err, f.Close())
}

// lockMemory prevents this process from being swapped out to a disk that it keeps itself. Memory
// that Go reserves but does not use is not taken, except by kernels without MCL_ONFAULT, which are
// those before 4.4 (mlockall(2)).
func lockMemory() error {
	const all = unix.MCL_CURRENT | unix.MCL_FUTURE
	err := unix.Mlockall(all | unix.MCL_ONFAULT)
	if err == unix.EINVAL {
		err = unix.Mlockall(all)
	}
	return err
}

// Pauses between two attempts to reconnect. They are short, because the whole node waits.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// reconnect returns when the device has a working connection again. It tries for as long as it
// takes: reads of the root wait, and nothing is lost.
func reconnect(ctx context.Context, step report.Step, d device) {
	lost := time.Now()
	step.Note(fmt.Sprintf("the connection to %s ended; reads of the root wait until there is another", d.Peer()))
	said := ""
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, longestPause) {
		err := d.Reconnect(ctx)
		if err == nil {
			step.Note(fmt.Sprintf("connected to %s again after %.1f s", d.Peer(), time.Since(lost).Seconds()))
			return
		}
		if err.Error() != said { // once for each reason
			said = err.Error()
			step.Fault(err)
		}
		devices.Pause(ctx, pause)
	}
}

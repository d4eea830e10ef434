package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/report"
)

// freshFor is how long an overlay may use what it remembers of a live tree below it. The NFS client
// adds its own time, a minute (acregmax and acdirmax of nfs(5)).
const freshFor = 15 * time.Second

// keepFresh makes the overlay whose top directory is root forget, again and again, the names that
// nothing has open. An overlay assumes that the tree below it does not change
// (Documentation/filesystems/overlayfs.rst, "Changes to underlying filesystems"): a file that was
// replaced is a "Stale file handle" for as long as its name is remembered, and a name that did not
// exist stays absent. Contents and attributes belong to the NFS client and remain.
func keepFresh(ctx context.Context, step report.Step, root int) {
	for {
		devices.Pause(ctx, freshFor)
		if ctx.Err() != nil {
			return
		}
		if err := dropNames(root); err != nil {
			step.Fault(fmt.Errorf("files that are replaced in the tree are stale here until \"echo 2 > /proc/sys/vm/drop_caches\": %w", err))
			return
		}
	}
}

// dropNames empties a file system's part of the dentry cache. Each reconfiguration does that, even
// if it changes nothing (fs/super.c, reconfigure_super). Unlike mount(2) with MS_REMOUNT it does
// not change a mount, which systemd would be told of.
func dropNames(root int) error {
	fs, err := unix.Fspick(root, "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		if errors.Is(err, unix.ENOSYS) {
			err = errors.New("the kernel is older than Linux 5.2")
		}
		return err
	}
	defer unix.Close(fs)
	return unix.FsconfigReconfigure(fs)
}

package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// freshFor is how long an overlay may believe what it knows of a live tree below it, beside the time that the NFS client
// does (acregmax and acdirmax of nfs(5), a minute).
const freshFor = 15 * time.Second

// keepFresh has the overlay that root is the top directory of forget, again and again, what nobody has open. An overlay
// takes what lies below it for unchanging (Documentation/filesystems/overlayfs.rst, "Changes to underlying
// filesystems"): a file that was replaced is "Stale file handle" for as long as its name is remembered, and a name that
// was not there is not there. Contents and attributes are the NFS client's, and remain.
func keepFresh(ctx context.Context, log *console, root int) {
	for {
		wait(ctx, freshFor)
		if err := forget(root); err != nil {
			log.fail("keeper", fmt.Errorf("files that are replaced in the tree are stale here until \"echo 2 > /proc/sys/vm/drop_caches\": %w", err))
			return
		}
	}
}

// forget empties a file system's part of the dentry cache, as each reconfiguration does, also one that changes nothing
// (fs/super.c, reconfigure_super). Unlike mount(2) with MS_REMOUNT it changes no mount, of which systemd would be told.
func forget(root int) error {
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

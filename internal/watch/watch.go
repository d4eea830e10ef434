// Package watch calls a function when something in a set of directories may have changed.
//
// It uses inotify(7), and looks at regular intervals where inotify reports nothing (network file
// systems) or has reached a limit. It does not say what has changed: the function finds that out,
// so that a call too many does no harm.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

const (
	// quiet is how long there must be no further change before Changed is called: an editor writes
	// and renames in several steps.
	quiet = 100 * time.Millisecond
	// maxWait bounds that for changes that go on.
	maxWait = 500 * time.Millisecond
	// interval is the time between two looks where inotify cannot be used.
	interval = 2 * time.Second
	// safetyInterval is the same where inotify is used. It finds what inotify does not report, such
	// as a file that is written through a hard link in another directory.
	safetyInterval = time.Minute
)

// Watcher watches directories. Its fields are set before Run.
type Watcher struct {
	// Name is what the directories hold, for the log: "layers".
	Name string
	// Dirs returns the directories to watch. Entries of each are watched, and not what is below
	// them. It is called again before each call of Changed. For a directory that does not
	// exist the nearest one above it is watched.
	Dirs func() []string
	// Changed is called when Run starts, when there was a change, and at intervals; never twice at
	// once.
	Changed func(ctx context.Context)
	Log     *slog.Logger

	cannot  func(dir string) error // why inotify cannot watch a directory; nil: as its file system says
	watched map[string]bool
	polling bool
}

// Run watches until ctx ends and returns nil. It calls ready when Changed has returned for the
// first time.
func (w *Watcher) Run(ctx context.Context, ready func()) error {
	if w.cannot == nil {
		w.cannot = unreported
	}
	w.watched = make(map[string]bool)
	n, err := fsnotify.NewWatcher()
	if err != nil {
		err = fmt.Errorf("inotify: %w", err)
		n = &fsnotify.Watcher{} // its channels are nil: it reports nothing
	} else {
		defer n.Close()
	}
	for first := true; ; first = false {
		why := err
		if why == nil {
			why = w.follow(n)
		}
		w.tell(why)
		w.Changed(ctx)
		if first {
			ready()
		}
		pause := safetyInterval
		if w.polling {
			pause = interval
		}
		if !wait(ctx, n, pause) {
			return nil
		}
	}
}

// follow watches the directories of this moment, and those alone. It returns why inotify is not
// enough, nil when it is.
func (w *Watcher) follow(n *fsnotify.Watcher) (why error) {
	dirs := make(map[string]bool)
	above := make(map[string]string) // directories that do not exist, and what is watched instead
	for _, dir := range w.Dirs() {
		there := existing(dir)
		dirs[there] = true
		if there != dir {
			above[dir] = there
		}
	}
	for dir := range w.watched {
		if !dirs[dir] {
			n.Remove(dir) // an error says that it is not watched any more
			delete(w.watched, dir)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		err := w.cannot(dir)
		if err == nil {
			// Adding one that is watched does nothing, and watches it again when it was removed and
			// made anew.
			err = n.Add(dir)
		}
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("the limit of inotify watches is reached (sysctl fs.inotify.max_user_watches): %w", err)
		}
		switch {
		case err == nil:
			w.watched[dir] = true
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			delete(w.watched, dir)
		case why == nil:
			why = fmt.Errorf("%s: %w", dir, err)
		}
	}
	for dir, there := range above {
		if why == nil && existing(dir) != there { // made before the one above it was watched
			return w.follow(n)
		}
	}
	return why
}

// existing returns the directory, or, when it does not exist, the nearest one above it that does.
func existing(dir string) string {
	for {
		_, err := os.Stat(dir)
		up := filepath.Dir(dir)
		if up == dir || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return dir
		}
		dir = up
	}
}

// tell logs when watching becomes looking at intervals, and when it is watching again.
func (w *Watcher) tell(why error) {
	polling := why != nil
	if polling == w.polling {
		return
	}
	w.polling = polling
	if polling {
		w.Log.Warn("changes are not reported by the kernel", "of", w.Name, "why", why, "looking every", interval)
	} else {
		w.Log.Info("changes are reported by the kernel again", "of", w.Name)
	}
}

// wait returns true when there was a change and then none for a moment, or when the pause is over;
// false at the end of ctx.
func wait(ctx context.Context, n *fsnotify.Watcher, pause time.Duration) bool {
	over := time.NewTimer(pause)
	defer over.Stop()
	var settled, limit <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-over.C:
			return true
		case <-settled:
			return true
		case <-limit:
			return true
		case <-n.Events:
		case <-n.Errors: // events were lost, perhaps
		}
		settled = time.After(quiet)
		if limit == nil {
			limit = time.After(maxWait)
		}
	}
}

// silent are file systems whose files are changed by other machines, or by a process that the
// kernel does not see. Their numbers are in statfs(2).
var silent = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "NFS",
	unix.SMB_SUPER_MAGIC:  "SMB",
	unix.SMB2_SUPER_MAGIC: "SMB",
	unix.CIFS_SUPER_MAGIC: "SMB",
	unix.FUSE_SUPER_MAGIC: "FUSE",
	unix.V9FS_MAGIC:       "9p",
	unix.CEPH_SUPER_MAGIC: "Ceph",
	unix.AFS_SUPER_MAGIC:  "AFS",
}

// unreported says why inotify does not report what happens in a directory.
func unreported(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return err
	}
	if name := silent[int64(uint32(st.Type))]; name != "" {
		return fmt.Errorf("inotify does not report changes on %s", name)
	}
	return nil
}

package store

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"netroot/internal/store/layout"
)

// State tells one state of a blob's file from another, without a look at its bytes. States are
// compared with ==.
type State struct {
	size, mtime, ctime int64 // times in ns
	inode              uint64
}

// State is that of the file that was opened. It changes when bytes are written, and when another
// file takes the place; also when the file gets another mode or another hard link.
func (b *Blob) State() (State, error) {
	info, err := b.f.Stat()
	if err != nil {
		return State{}, err
	}
	return stateOf(info), nil
}

func stateOf(info os.FileInfo) State {
	st := State{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.inode, st.ctime = sys.Ino, sys.Ctim.Nano()
	}
	return st
}

// clockStep is more than the step of the clock that file systems take times from.
const clockStep = 50 * time.Millisecond

// Settled reports whether the file would have another State if it were changed after now.
func (st State) Settled(now time.Time) bool {
	return now.Sub(time.Unix(0, max(st.mtime, st.ctime))) > clockStep
}

// CommitTime is more than what passes between the first file of a commit and the last, which have
// their names in one go.
const CommitTime = time.Minute

// ChangedSinceCommit reports whether a blob with that State was changed, or put there, so long
// after the manifest of an image that has it. Another image may have had it before.
func (b *Blob) ChangedSinceCommit(st State, within time.Duration) bool {
	info, err := os.Stat(filepath.Join(filepath.Dir(b.Path()), b.of.Encoded()))
	if err != nil {
		return true
	}
	return st.ctime > stateOf(info).ctime+within.Nanoseconds()
}

// StateOf is the State of a blob's file now; the zero State, which no file has, where there is none.
func StateOf(path string) State {
	info, err := os.Stat(path)
	if err != nil {
		return State{}
	}
	return stateOf(info)
}

// Verify reads the blob and compares it with its digest.
func (b *Blob) Verify(ctx context.Context) error {
	verifier := b.Digest.Verifier()
	if _, err := io.Copy(verifier, reader{ctx, io.NewSectionReader(b.f, 0, b.size)}); err != nil {
		return fmt.Errorf("%s: %w", b.Path(), err)
	}
	if !verifier.Verified() {
		return layout.Damaged(b.Path())
	}
	return nil
}

// Others are the names of up to three other versions of the image's label whose manifests can be
// read, the newest first, for a message about one that is damaged. whole, which may be nil, leaves
// out those for which it is false.
func (s *Store) Others(im *Image, whole func(*Image) bool) []string {
	snap, err := s.snapshot()
	if err != nil || snap == nil {
		return nil
	}
	var names []string
	for _, v := range slices.Backward(snap.labels[im.Label]) {
		if v.digest == im.Digest {
			continue
		}
		if other, err := s.image(snap, v, ""); err == nil && (whole == nil || whole(other)) {
			names = append(names, other.Name())
		}
		if len(names) == 3 {
			break
		}
	}
	return names
}

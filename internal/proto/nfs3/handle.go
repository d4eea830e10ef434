package nfs3

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"hash"
	"sync"

	"golang.org/x/sys/unix"
)

// A handle is the kernel's own for the file (name_to_handle_at(2): inode number and generation,
// mostly), behind what says whose it is:
//
//	0   version of this layout, 1
//	1   ID of the export
//	9   seal: the first 12 bytes of an HMAC-SHA-256 over everything else
//	21  type of the kernel's handle
//	22  the kernel's handle
//
// The seal is what keeps a client inside its export. The kernel would open any file of the file
// system by its inode number, which is easily guessed; with the seal, a handle is one that this
// server has given out for this export (or that a client saw on the wire, against which NFSv3 has
// no defence). A file that was given out and is then renamed to outside of the export stays within
// reach of a client that has its handle, as a local process keeps a file open; of a directory that
// was, what lies below does too, but not what lies above it: see tree.
const (
	handleVersion = 1
	handleID      = 1
	handleSeal    = handleID + len(ID{})
	handleType    = handleSeal + sealSize
	handleHead    = handleType + 1
	sealSize      = 12

	maxKernelHandle = maxHandle - handleHead // of any file system but a re-exported NFS
)

// sealer seals handles with a key.
type sealer struct {
	key  [32]byte
	pool sync.Pool // of hash.Hash
}

// seal returns the seal of handle h, whose own seal is not looked at.
func (s *sealer) seal(h []byte) (sum [sha256.Size]byte) {
	m, ok := s.pool.Get().(hash.Hash)
	if !ok {
		m = hmac.New(sha256.New, s.key[:])
	}
	defer s.pool.Put(m)
	m.Reset()
	m.Write(h[:handleSeal])
	m.Write(h[handleType:])
	m.Sum(sum[:0])
	return sum
}

// make returns the handle of a file of an export; fh is no longer than maxKernelHandle.
func (s *sealer) make(id ID, fh unix.FileHandle) []byte {
	h := make([]byte, handleHead, handleHead+fh.Size())
	h[0] = handleVersion
	copy(h[handleID:], id[:])
	h[handleType] = byte(fh.Type())
	h = append(h, fh.Bytes()...)
	sum := s.seal(h)
	copy(h[handleSeal:], sum[:sealSize])
	return h
}

// handleExport returns the export that a handle names, which is not verified yet.
func handleExport(h []byte) (ID, error) {
	if len(h) <= handleHead || h[0] != handleVersion {
		return ID{}, statusBadHandle
	}
	return ID(h[handleID:]), nil
}

// verify returns the kernel's handle in one of ours. One that was sealed with another key is stale:
// it may have been good before the key was lost.
func (s *sealer) verify(h []byte) (unix.FileHandle, error) {
	sum := s.seal(h)
	if subtle.ConstantTimeCompare(sum[:sealSize], h[handleSeal:handleType]) == 0 {
		return unix.FileHandle{}, statusStale
	}
	return unix.NewFileHandle(int32(h[handleType]), h[handleHead:]), nil
}

// kernelHandle returns the kernel's handle of an open file.
func kernelHandle(fd int) (unix.FileHandle, error) {
	fh, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err == nil && (fh.Size() > maxKernelHandle || fh.Type() < 0 || fh.Type() > 255) {
		err = unix.EOPNOTSUPP
	}
	return fh, err
}

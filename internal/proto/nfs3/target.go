package nfs3

import (
	"bytes"
	"errors"

	"golang.org/x/sys/unix"
)

// target is a file that a request is about.
type target struct {
	*file
	at  *attachment
	srv *Server
	who *cred       // the user of the request, as the export maps it
	st  unix.Stat_t // of the file when the request came, or later
}

// target opens the file of handle h. It is to be ended with done.
func (c *conn) target(q *call, h []byte) (*target, error) {
	a, err := c.attach(h)
	if err != nil {
		return nil, err
	}
	a.session.Heard()
	t := &target{at: a, srv: c.srv, who: q.who}
	if !a.export.TrustRoot {
		t.who = q.who.squashed
	}
	if t.file, err = c.srv.file(a.tree, h); err != nil {
		return nil, err
	}
	if err := t.stat(); err != nil {
		t.done()
		return nil, err
	}
	return t, nil
}

// file returns the open file of a handle, with a reference.
func (s *Server) file(t *tree, h []byte) (*file, error) {
	if f := s.files.get(t, h[handleType:]); f != nil {
		if f.handle == string(h) {
			return f, nil
		}
		s.files.put(f)
		return nil, statusStale // another seal
	}
	fh, err := s.seals.verify(h)
	if err != nil {
		return nil, err
	}
	fd, err := unix.OpenByHandleAt(t.fd, fh, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return s.files.add(t, h, fd), nil
}

func (t *target) done() { t.srv.files.put(t.file) }

// stat brings t.st up to date. What has no name any more is stale to a client, and only kept from
// being freed here.
func (t *target) stat() error {
	err := unix.Fstat(t.path, &t.st)
	if err == nil && t.st.Nlink == 0 {
		err = unix.ESTALE
	}
	if errors.Is(err, unix.ESTALE) {
		t.srv.files.forget(t.file)
	}
	return err
}

func (t *target) kind() uint32 { return t.st.Mode & unix.S_IFMT }

// may says whether the kernel allows all of want.
func (t *target) may(want uint32) bool { return t.file.may(t.who, &t.st, want) == want }

// entryName checks that t is a directory and name a name.
func (t *target) entryName(name []byte) error {
	switch {
	case t.kind() != unix.S_IFDIR:
		return statusNotDir
	case len(name) > maxName:
		return statusNameTooLong
	case len(name) == 0 || bytes.ContainsAny(name, "/\x00"):
		return statusInval
	}
	return nil
}

// child opens what is called name in a directory; entryName was called. A symbolic link is itself.
// ".." does not lead out of the tree: see tree.
func (t *target) child(name []byte) (*target, error) {
	fd, err := t.openChild(name)
	if err != nil {
		return nil, err
	}
	return t.adopt(fd)
}

func (t *target) openChild(name []byte) (int, error) {
	return unix.Openat(t.path, string(name), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// adopt returns the target of an O_PATH descriptor in the same tree.
func (t *target) adopt(fd int) (*target, error) {
	c := &target{at: t.at, srv: t.srv, who: t.who}
	fh, err := kernelHandle(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if c.file = t.srv.files.get(t.at.tree, key(fh)); c.file != nil {
		unix.Close(fd)
	} else {
		c.file = t.srv.files.add(t.at.tree, t.srv.seals.make(t.at.tree.key.id, fh), fd)
	}
	if err := c.stat(); err != nil {
		c.done()
		return nil, err
	}
	return c, nil
}

// reader returns a descriptor that reads a regular file or a directory. Permissions are checked
// elsewhere.
func (f *file) reader() (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.descriptor(&f.rd, unix.O_RDONLY)
}

// writer returns one that writes a regular file.
func (f *file) writer() (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.descriptor(&f.rw, unix.O_RDWR)
}

func (f *file) descriptor(fd *int, flags int) (int, error) {
	if *fd >= 0 {
		return *fd, nil
	}
	fh := unix.NewFileHandle(int32(f.key.file[0]), []byte(f.key.file[1:]))
	opened, err := unix.OpenByHandleAt(f.key.tree.fd, fh, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if err != nil {
		return -1, err
	}
	*fd = opened
	return opened, nil
}

// key is what of a handle names the file in its tree.
func key(fh unix.FileHandle) []byte {
	b := make([]byte, 1, 1+fh.Size())
	b[0] = byte(fh.Type())
	return append(b, fh.Bytes()...)
}

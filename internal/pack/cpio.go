package pack

import (
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
	"time"
)

// CPIO writes an archive in the "newc" format, which the kernel unpacks as its initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst). The output depends only on the
// calls: inode numbers count up from 1, and everything belongs to root.
//
// The format is not suitable for a root file system: it has no extended attributes, and this writer
// makes no hard links.
//
// Names are separated by slashes and relative to the root; a leading slash is dropped. The kernel
// does not make parent directories, so missing ones are written first, with mode 0755. Each name
// can be written once.
type CPIO struct {
	ModTime time.Time // time of all entries; zero: 1970-01-01

	w       io.Writer
	written int64
	inode   uint32
	names   map[string]bool // true for a directory
}

// NewCPIO starts an archive. Close ends the archive but does not close w.
func NewCPIO(w io.Writer) *CPIO {
	return &CPIO{w: w, names: map[string]bool{".": true}}
}

// These are the modes of cpio headers: S_IFMT of inode(7).
const (
	cpioDir     = 0o040000
	cpioChar    = 0o020000
	cpioBlock   = 0o060000
	cpioRegular = 0o100000
	cpioLink    = 0o120000

	cpioMagic   = "070701"
	cpioTrailer = "TRAILER!!!"
)

type cpioEntry struct {
	name         string
	mode         uint32 // type and permissions
	links        uint32
	size         int64
	major, minor uint32 // of a device
}

// Mkdir writes a directory. perm may have the setuid, setgid and sticky bits of io/fs.
func (c *CPIO) Mkdir(name string, perm fs.FileMode) error {
	return c.add(cpioEntry{name: name, mode: cpioDir | permBits(perm), links: 2}, nil)
}

// WriteFile writes a regular file of size bytes, which it reads from r. The format limits size to
// less than 4 GiB.
func (c *CPIO) WriteFile(name string, perm fs.FileMode, size int64, r io.Reader) error {
	return c.add(cpioEntry{name: name, mode: cpioRegular | permBits(perm), links: 1, size: size}, r)
}

// Symlink writes a symbolic link to target.
func (c *CPIO) Symlink(name, target string) error {
	if target == "" || strings.ContainsRune(target, 0) {
		return fmt.Errorf("cpio: %s: %q cannot be the target of a link", name, target)
	}
	return c.add(cpioEntry{name: name, mode: cpioLink | 0o777, links: 1, size: int64(len(target))}, strings.NewReader(target))
}

// Device writes a device node: a character device if mode has fs.ModeCharDevice, otherwise a block
// device.
func (c *CPIO) Device(name string, mode fs.FileMode, major, minor uint32) error {
	kind := uint32(cpioBlock)
	if mode&fs.ModeCharDevice != 0 {
		kind = cpioChar
	}
	return c.add(cpioEntry{name: name, mode: kind | permBits(mode), links: 1, major: major, minor: minor}, nil)
}

// Close writes the archive's end.
func (c *CPIO) Close() error {
	return c.write(cpioEntry{name: cpioTrailer, links: 1}, nil)
}

func permBits(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

// add checks the name of an entry, and writes the missing parents and the entry.
func (c *CPIO) add(e cpioEntry, r io.Reader) error {
	clean := path.Clean(strings.TrimPrefix(e.name, "/"))
	if !fs.ValidPath(clean) || clean == "." || clean == cpioTrailer || strings.ContainsRune(clean, 0) {
		return fmt.Errorf("cpio: %q is not a valid file name", e.name)
	}
	if e.size < 0 || e.size > math.MaxUint32 {
		return fmt.Errorf("cpio: %s has %d bytes, but the format allows less than 4 GiB", clean, e.size)
	}
	if _, ok := c.names[clean]; ok {
		return fmt.Errorf("cpio: %s was already written", clean)
	}
	parent := path.Dir(clean)
	isDir, ok := c.names[parent]
	if ok && !isDir {
		return fmt.Errorf("cpio: %s: %s is not a directory", clean, parent)
	}
	if !ok {
		if err := c.Mkdir(parent, 0o755); err != nil {
			return err
		}
	}
	c.names[clean] = e.mode&0o170000 == cpioDir
	e.name = clean
	c.inode++
	if err := c.write(e, r); err != nil {
		return fmt.Errorf("cpio: %s: %w", clean, err)
	}
	return nil
}

func (c *CPIO) write(e cpioEntry, r io.Reader) error {
	inode, mtime := c.inode, int64(0)
	if e.name == cpioTrailer {
		inode = 0
	} else if !c.ModTime.IsZero() {
		mtime = min(max(c.ModTime.Unix(), 0), math.MaxUint32)
	}
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, maj, min, rmaj, rmin, namesize,
	// chksum
	header := fmt.Sprintf("%s%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", cpioMagic,
		inode, e.mode, 0, 0, e.links, mtime, e.size, 0, 0, e.major, e.minor, len(e.name)+1, 0, e.name)
	if err := c.copy(strings.NewReader(header), int64(len(header))); err != nil || e.size == 0 {
		return err
	}
	return c.copy(r, e.size)
}

// copy writes size bytes of r and pads with zeros to a multiple of four.
func (c *CPIO) copy(r io.Reader, size int64) error {
	n, err := io.CopyN(c.w, r, size)
	c.written += n
	if err == io.EOF {
		return fmt.Errorf("has only %d of %d bytes", n, size)
	}
	if err != nil {
		return err
	}
	n, err = io.CopyN(c.w, strings.NewReader("\x00\x00\x00"), -c.written&3)
	c.written += n
	return err
}

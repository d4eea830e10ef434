package dracut

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The portable ASCII format of cpio: Documentation/driver-api/early-userspace/buffer-format.rst. A
// header is a magic number and thirteen fields of eight hexadecimal digits.
const (
	cpioMagic  = "070701"
	cpioHeader = len(cpioMagic) + 13*8
	cpioMode   = 1 // numbers of fields
	cpioMtime  = 5
	cpioSize   = 6
	cpioName   = 11
	cpioEnd    = "TRAILER!!!"
	// cpioPath is the longest name that is accepted: PATH_MAX.
	cpioPath = 4096
	// cpioList is the size in bytes at which a list of modules is no longer one.
	cpioList = 1 << 20
)

// compressed are the formats that a kernel can unpack (lib/decompress.c), by their first bytes.
var compressed = []struct{ magic, name string }{
	{"\x1f\x8b", "gzip"}, {"\x1f\x9e", "gzip"}, {"BZh", "bzip2"}, {"\x5d\x00", "lzma"}, {"\xfd7zXZ", "xz"},
	{"\x89LZO", "lzo"}, {"\x02\x21\x4c\x18", "lz4"}, {"\x28\xb5\x2f\xfd", "zstd"},
}

// contents is what must be known of an initramfs before a machine boots it.
type contents struct {
	init    bool     // there is the /init that the kernel runs
	early   bool     // there is an archive for the kernel itself, such as tables of ACPI
	modules []string // dracut's modules, from the list that dracut writes
}

// moduleLists are the places of that list. /lib is a link where /usr is merged.
var moduleLists = []string{"usr/lib/dracut/modules.txt", "lib/dracut/modules.txt"}

// timeless copies an initramfs and sets all times to zero: the files that dracut makes have the
// time of the run. An initramfs is one archive or several, with zeros between them. dracut 112 puts
// files that are already compressed into an archive of their own, before the one with /init.
func timeless(w io.Writer, r io.Reader) (contents, error) {
	a := archives{w: w, in: bufio.NewReaderSize(r, 1<<20)}
	for n := 1; ; n++ {
		switch more, err := a.next(); {
		case err != nil:
			return a.found, err
		case !more && n == 1:
			return a.found, errors.New("the initramfs is empty")
		case !more:
			return a.found, nil
		}
		for more := true; more; {
			var err error
			if more, err = a.file(); err != nil {
				return a.found, fmt.Errorf("archive %d: %w", n, err)
			}
		}
	}
}

// archives are those of an initramfs, while they are copied.
type archives struct {
	w     io.Writer
	in    *bufio.Reader
	found contents
}

// next goes to the next archive, and reports whether there is one.
func (a *archives) next() (bool, error) {
	for {
		switch b, err := a.in.ReadByte(); {
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, err
		case b != 0:
			return true, a.in.UnreadByte()
		}
	}
}

// file copies a file of an archive, and reports whether it was not the last.
func (a *archives) file() (more bool, err error) {
	header := make([]byte, cpioHeader)
	n, err := io.ReadFull(a.in, header)
	if n >= len(cpioMagic) {
		if err := checkMagic(header); err != nil {
			return false, err
		}
	}
	if err != nil {
		return false, fmt.Errorf("it ends without its trailer: %w", err)
	}
	var fields [13]int64
	for _, n := range []int{cpioMode, cpioSize, cpioName} {
		if fields[n], err = cpioField(header, n); err != nil {
			return false, err
		}
	}
	length := fields[cpioName]
	if length == 0 || length > cpioPath {
		return false, fmt.Errorf("a file's name of %d bytes", length)
	}
	copy(header[len(cpioMagic)+cpioMtime*8:], "00000000")
	text := make([]byte, padded(int64(cpioHeader)+length)-int64(cpioHeader))
	if _, err := io.ReadFull(a.in, text); err != nil {
		return false, fmt.Errorf("it ends without its trailer: %w", err)
	}
	if _, err := a.w.Write(append(header, text...)); err != nil {
		return false, err
	}
	// More than one NUL may follow a name, to align the data.
	name, _, _ := strings.Cut(string(text[:length]), "\x00")
	if err := a.data(name, fields[cpioMode], fields[cpioSize]); err != nil {
		return false, fmt.Errorf("%q: %w", name, err)
	}
	return name != cpioEnd, nil
}

// data copies the data of a file, and notes what the file means.
func (a *archives) data(name string, mode, size int64) error {
	var list bytes.Buffer
	to := a.w
	switch name = strings.TrimPrefix(path.Clean("/"+name), "/"); {
	case name == "init" && (mode&0o170000 == 0o100000 || mode&0o170000 == 0o120000): // a file or a link
		a.found.init = true
	case name == "early_cpio":
		a.found.early = true
	case slices.Contains(moduleLists, name) && size < cpioList:
		to = io.MultiWriter(a.w, &list)
	}
	if _, err := io.CopyN(to, a.in, padded(size)); err != nil {
		return err
	}
	if list.Len() > 0 {
		a.found.modules = strings.Fields(string(list.Bytes()[:size]))
	}
	return nil
}

func checkMagic(header []byte) error {
	if string(header[:len(cpioMagic)]) == cpioMagic {
		return nil
	}
	for _, c := range compressed {
		if bytes.HasPrefix(header, []byte(c.magic)) {
			return fmt.Errorf("it is compressed with %s, though dracut was run with --no-compress", c.name)
		}
	}
	return errors.New("it is not an archive of cpio's newc format")
}

func cpioField(header []byte, n int) (int64, error) {
	at := len(cpioMagic) + n*8
	v, err := strconv.ParseUint(string(header[at:at+8]), 16, 32)
	if err != nil {
		return 0, fmt.Errorf("field %d: %w", n, err)
	}
	return int64(v), nil
}

// padded is a length up to the next multiple of four.
func padded(n int64) int64 { return (n + 3) &^ 3 }

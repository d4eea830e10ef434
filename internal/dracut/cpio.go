package dracut

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// The portable ASCII format of cpio: Documentation/driver-api/early-userspace/buffer-format.rst. A
// header is a magic number and thirteen fields of eight hexadecimal digits.
const (
	cpioMagic  = "070701"
	cpioHeader = len(cpioMagic) + 13*8
	cpioMtime  = 5 // numbers of fields
	cpioSize   = 6
	cpioName   = 11
	cpioEnd    = "TRAILER!!!\x00"
	// cpioPath is the longest name that is accepted: PATH_MAX.
	cpioPath = 4096
)

// timeless copies an archive and sets all times to zero: the files that dracut makes have the time
// of the run.
func timeless(w io.Writer, r io.Reader) error {
	in := bufio.NewReaderSize(r, 1<<20)
	header := make([]byte, cpioHeader)
	for {
		if _, err := io.ReadFull(in, header); err != nil {
			return fmt.Errorf("archive ends without its trailer: %w", err)
		}
		if string(header[:len(cpioMagic)]) != cpioMagic {
			return errors.New("not an archive of cpio's newc format")
		}
		name, err := cpioField(header, cpioName)
		if err != nil {
			return err
		}
		size, err := cpioField(header, cpioSize)
		if err != nil {
			return err
		}
		if name == 0 || name > cpioPath {
			return fmt.Errorf("a file's name of %d bytes", name)
		}
		copy(header[len(cpioMagic)+cpioMtime*8:], "00000000")
		text := make([]byte, padded(int64(cpioHeader)+name)-int64(cpioHeader))
		if _, err := io.ReadFull(in, text); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		if _, err := w.Write(append(header, text...)); err != nil {
			return err
		}
		if _, err := io.CopyN(w, in, padded(size)); err != nil {
			return fmt.Errorf("archive: %q: %w", text[:name-1], err)
		}
		if string(text[:name]) == cpioEnd {
			return nil
		}
	}
}

func cpioField(header []byte, n int) (int64, error) {
	at := len(cpioMagic) + n*8
	v, err := strconv.ParseUint(string(header[at:at+8]), 16, 32)
	if err != nil {
		return 0, fmt.Errorf("archive: field %d: %w", n, err)
	}
	return int64(v), nil
}

// padded is a length up to the next multiple of four.
func padded(n int64) int64 { return (n + 3) &^ 3 }

package layer

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyContent writes size bytes of src into a new file. The holes of a file on disk stay holes and
// are not read. Of an archive, whole pages of zeros become holes: it has no others.
func copyContent(dst *os.File, src io.Reader, size int64) error {
	var err error
	if f, ok := src.(*os.File); ok {
		err = copyData(dst, f, size)
	} else {
		_, err = io.Copy(&holeWriter{f: dst}, src)
	}
	if err != nil {
		return err
	}
	return dst.Truncate(size) // a hole at the end
}

// copyData copies what is not a hole, as lseek(2) tells. A file system that knows no holes reports one
// piece of data.
func copyData(dst, src *os.File, size int64) error {
	for at := int64(0); at < size; {
		data, err := src.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			return nil
		}
		hole := size
		if err == nil {
			hole, err = src.Seek(data, unix.SEEK_HOLE)
		}
		if errors.Is(err, unix.EINVAL) { // the file system has no such calls
			data, hole, err = at, size, nil
		}
		if err != nil {
			return err
		}
		hole = min(hole, size)
		if data >= hole {
			return nil
		}
		if _, err := src.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, hole-data); err != nil {
			return err
		}
		at = hole
	}
	return nil
}

const page = 4096

var zeros [page]byte

// holeWriter writes a file from its beginning and leaves out pages of zeros.
type holeWriter struct {
	f  *os.File
	at int64
}

func (w *holeWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n, isHole := w.run(p[done:])
		if !isHole {
			if _, err := w.f.WriteAt(p[done:done+n], w.at); err != nil {
				return done, err
			}
		}
		done += n
		w.at += int64(n)
	}
	return len(p), nil
}

// run returns how many bytes at the beginning of p are whole pages of zeros, or are not.
func (w *holeWriter) run(p []byte) (n int, isHole bool) {
	next := func() int { return min(len(p)-n, page-int((w.at+int64(n))%page)) }
	hole := func() bool { return next() == page && bytes.Equal(p[n:n+page], zeros[:]) }
	for isHole = hole(); n < len(p) && hole() == isHole; {
		n += next()
	}
	return n, isHole
}

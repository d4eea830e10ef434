package pxetree

import (
	"bytes"
	"io"
	"os"
)

// SameFile reports whether two names are of one file, or of two with the same bytes.
func SameFile(a, b string) (bool, error) {
	var files [2]*os.File
	var infos [2]os.FileInfo
	for i, path := range []string{a, b} {
		f, err := os.Open(path)
		if err != nil {
			return false, err
		}
		defer f.Close()
		if infos[i], err = f.Stat(); err != nil {
			return false, err
		}
		files[i] = f
	}
	if os.SameFile(infos[0], infos[1]) {
		return true, nil
	}
	if infos[0].Size() != infos[1].Size() {
		return false, nil
	}
	return sameBytes(files[0], files[1])
}

// sameBytes reports whether two readers give the same bytes.
func sameBytes(a, b io.Reader) (bool, error) {
	const block = 1 << 20
	x, y := make([]byte, block), make([]byte, block)
	for {
		n, err := io.ReadFull(a, x)
		m, merr := io.ReadFull(b, y)
		for _, err := range []error{err, merr} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if same := bytes.Equal(x[:n], y[:m]); !same || err != nil { // the end of both when it is that of one
			return same, nil
		}
	}
}

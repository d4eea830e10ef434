package load

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strconv"
)

// httpWire reads ranges of one file, one request after the other on one connection.
type httpWire struct{ host, path string }

// HTTP connects to the server of a file of so many bytes.
func HTTP(ctx context.Context, where string, size int64) (*Conn, error) {
	u, err := url.Parse(where)
	if err != nil {
		return nil, err
	}
	nc, err := Dial(ctx, u.Host)
	if err != nil {
		return nil, err
	}
	return newConn(nc, httpWire{u.Host, u.RequestURI()}, size), nil
}

func (w httpWire) ask(c *Conn, off int64, n int) error {
	_, err := fmt.Fprintf(c.w, "GET %s HTTP/1.1\r\nHost: %s\r\nRange: bytes=%d-%d\r\n\r\n", w.path, w.host, off, off+int64(n)-1)
	return err
}

func (w httpWire) answer(c *Conn, n int) error {
	length := -1
	for first := true; ; first = false {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 206 ")) {
			return fmt.Errorf("HTTP: %q", line)
		}
		if len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(": ")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(value)); err != nil {
				return err
			}
		}
	}
	if length != n {
		return fmt.Errorf("HTTP: %d bytes of %d", length, n)
	}
	return c.skip(n)
}

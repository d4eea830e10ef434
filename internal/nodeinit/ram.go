package nodeinit

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// memoryReserve is what must be left beside an image in memory: for the kernel,
// and for what runs until the root is there.
const memoryReserve = 192 << 20

// attachHTTP fetches the whole packed root into memory and makes a read-only
// loop device of it. The node then depends on no server.
func (n *node) attachHTTP(ctx context.Context) (string, error) {
	d := newDownload(n.boot.Root.URLs(), n.boot.Root.Digest(), n.log)
	file, err := d.run(ctx)
	if err != nil {
		return "", err
	}
	defer file.Close() // the loop device holds it
	device, err := attachLoop(ctx, file)
	if err != nil {
		return "", err
	}
	if err := n.keepAddress(); err != nil {
		return "", errors.Join(err, detachLoop(device))
	}
	n.device = device
	checked := "its digest is right"
	if d.want == "" {
		checked = "unchecked, for its URL ends in no digest"
	}
	return fmt.Sprintf("%s holds %s of %s in memory, %s/s, %s", device, mib(d.size), d.urls[0],
		mib(int64(float64(d.size)/time.Since(d.began).Seconds())), checked), nil
}

// download is one file on its way into memory.
type download struct {
	urls       []string // of one file, the one to ask first
	want       string   // its digest, where the URL says it
	log        *console
	meminfo    string        // /proc/meminfo
	pause      time.Duration // after a first failure
	tag        string        // the server's name of what it sends (RFC 9110, 8.8.3)
	sum        hash.Hash
	size, have int64
	began      time.Time
}

func newDownload(urls []string, want string, log *console) *download {
	return &download{urls: urls, want: want, log: log, meminfo: "/proc/meminfo", pause: time.Second, sum: sha256.New(), began: time.Now()}
}

// longestPause is how long a node waits at most before it asks a server again that has sent a part of its root.
const longestPause = 15 * time.Second

// run fetches the file, from the first server that has it. Once some of it is here it goes on from there for as long as it
// takes, from one server after the other, whatever becomes of them meanwhile: to begin anew would cost all of it.
func (d *download) run(ctx context.Context) (*os.File, error) {
	fd, err := unix.MemfdCreate("netroot-root", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "netroot-root")
	pause, failures := d.pause, 0 // since the last byte that came
	for {
		before, url := d.have, d.urls[0]
		err := d.fetch(ctx, file)
		if err == nil {
			return file, nil
		}
		if d.have > before {
			pause, failures = d.pause, 0
		}
		failures++
		d.urls = append(d.urls[1:], url)
		err = fmt.Errorf("fetch %s: %w", url, err)
		all := failures%len(d.urls) == 0 // servers were asked
		if ctx.Err() != nil || errors.Is(err, errNoMemory) || d.have == 0 && all {
			return nil, errors.Join(err, file.Close())
		}
		next := fmt.Sprintf("going on at %s", mib(d.have))
		if len(d.urls) > 1 {
			next += " from " + d.urls[0]
		}
		if !all {
			d.log.fail("attach", fmt.Errorf("%w; %s", err, next))
			continue
		}
		d.log.fail("attach", fmt.Errorf("%w; %s in %v", err, next, pause))
		wait(ctx, pause)
		pause = min(2*pause, longestPause)
	}
}

var errNoMemory = errors.New("not enough memory")

// web asks servers. One that has vanished is noticed within half a minute, by keepalive or by the lack of an answer.
var web = &http.Client{Transport: &http.Transport{DialContext: keepAlive.DialContext, ResponseHeaderTimeout: 30 * time.Second}}

// fetch makes one request to the first server, for what is missing.
func (d *download) fetch(ctx context.Context, file *os.File) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.urls[0], nil)
	if err != nil {
		return err
	}
	if d.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		if d.tag != "" {
			req.Header.Set("If-Range", d.tag) // else all of what is there now
		}
	}
	resp, err := web.Do(req)
	var named *url.Error
	if errors.As(err, &named) {
		err = named.Err // the URL is said already
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent && d.have > 0:
	case resp.StatusCode == http.StatusOK:
		if err := d.begin(resp, file); err != nil {
			return err
		}
	default:
		return fmt.Errorf("the server says %s", resp.Status)
	}
	if err := d.copy(io.LimitReader(resp.Body, d.size-d.have), file); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(d.sum.Sum(nil)); d.want != "" && got != d.want {
		d.have = 0 // all of it has to come anew
		return fmt.Errorf("what came has digest %s", got)
	}
	return nil
}

// begin makes sure that there is room for what the server will send, from its first byte on.
func (d *download) begin(resp *http.Response, file *os.File) error {
	if resp.ContentLength <= 0 {
		return errors.New("the server does not say how much there is")
	}
	if err := file.Truncate(0); err != nil { // of a part of another file
		return err
	}
	d.size, d.have, d.tag = resp.ContentLength, 0, resp.Header.Get("ETag")
	if strings.HasPrefix(d.tag, "W/") {
		d.tag = "" // If-Range wants a strong one (RFC 9110, 13.1.5)
	}
	d.sum.Reset()
	if free := availableMemory(d.meminfo); free < d.size+memoryReserve {
		return fmt.Errorf("%w: the image is %s and %s are free, of which %s must stay: take a transport that reads on demand", errNoMemory, mib(d.size), mib(free), mib(int64(memoryReserve)))
	}
	return nil
}

// copy writes what comes, digests it, and tells how far it is now and then.
func (d *download) copy(body io.Reader, file *os.File) error {
	said := time.Now()
	buf := make([]byte, 256<<10)
	for d.have < d.size {
		n, err := body.Read(buf)
		if n > 0 {
			if _, err := file.WriteAt(buf[:n], d.have); err != nil {
				return err
			}
			d.sum.Write(buf[:n])
			d.have += int64(n)
		}
		if time.Since(said) > 2*time.Second {
			said = time.Now()
			d.log.say("attach", fmt.Sprintf("%s of %s, %s/s", mib(d.have), mib(d.size), mib(int64(float64(d.have)/time.Since(d.began).Seconds()))))
		}
		if err != nil && d.have < d.size {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// availableMemory reads MemAvailable of /proc/meminfo (proc(5)), in bytes; where
// the kernel does not say, there is enough.
func availableMemory(path string) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 1 << 62
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[0] == "MemAvailable:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10
		}
	}
	return 1 << 62
}

// attachLoop makes a read-only loop device of a file (loop(4)).
func attachLoop(ctx context.Context, file *os.File) (string, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("the kernel's loop driver: %w", err)
	}
	defer control.Close()
	index, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("find a free loop device: %w", err)
	}
	path := "/dev/loop" + strconv.Itoa(index)
	var loop *os.File
	if err := poll(ctx, 5*time.Second, path, func() (bool, error) {
		loop, err = os.OpenFile(path, os.O_RDONLY, 0) // which makes the device read-only
		return err == nil, nil
	}); err != nil {
		return "", err
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(file.Fd())); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	if err := waitDevice(ctx, path); err != nil {
		return "", errors.Join(err, detachLoop(path))
	}
	return path, nil
}

// detachLoop has a loop device let go of its file: who tries again fetches another,
// and memory may not hold both.
func detachLoop(path string) error {
	loop, err := os.Open(path)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
		return fmt.Errorf("let go of %s: %w", path, err)
	}
	return nil
}

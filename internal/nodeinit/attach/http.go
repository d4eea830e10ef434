package attach

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/report"
)

// memoryReserve is what must stay free beside an image in memory: for the kernel, and for what runs
// until the root is there.
const memoryReserve = 192 << 20

// attachHTTP fetches the whole packed root into memory and makes a read-only loop device of it. The
// node then does not depend on any server.
func attachHTTP(ctx context.Context, r Request) (*Root, error) {
	d := newDownload(r.Root.URLs(), r.Root.Digest(), r.Report)
	file, err := d.run(ctx)
	if err != nil {
		return nil, err
	}
	defer file.Close() // the loop device keeps it
	device, err := devices.AttachLoop(ctx, file)
	if err != nil {
		return nil, err
	}
	checked := "its digest is right"
	if d.want == "" {
		checked = "unchecked, for its URL ends in no digest"
	}
	said := fmt.Sprintf("%s holds %s of %s in memory, %s/s, %s", device, mib(d.size), d.urls[0],
		mib(int64(float64(d.size)/time.Since(d.began).Seconds())), checked)
	return &Root{Device: device, Said: said, detach: func() error { return devices.DetachLoop(device) }}, nil
}

// download is one file on its way into memory.
type download struct {
	urls       []string       // of one file, the one to ask next first
	want       handoff.Digest // if the URL says it
	report     report.Step
	meminfo    string        // /proc/meminfo
	pause      time.Duration // after a first failure
	stalled    time.Duration // see there
	silence    time.Duration // see there
	tag        string        // the server's name of what it sends (RFC 9110, 8.8.3)
	sum        hash.Hash
	size, have int64
	began      time.Time
}

func newDownload(urls []string, want handoff.Digest, step report.Step) *download {
	return &download{urls: urls, want: want, report: step, meminfo: "/proc/meminfo",
		pause: time.Second, stalled: stalled, silence: silence, sum: sha256.New(), began: time.Now()}
}

const (
	// longestPause is the longest pause between two requests for the rest of a root.
	longestPause = 15 * time.Second
	// stalled is how long no byte may arrive before a download that has begun is given up. A server
	// that restarts is back earlier; after this time the image may have been withdrawn.
	stalled = 10 * time.Minute
	// silence is how long a request waits for the next byte, or for a connection. A server whose
	// disk hangs, or a proxy without a server, keeps a connection open for ever.
	silence = time.Minute
)

// run fetches the file, from the first server that has it. A download that was interrupted
// continues where it ended, from one server after the other, until no byte has arrived for the time
// stalled: to start again would cost everything that has arrived.
func (d *download) run(ctx context.Context) (*os.File, error) {
	fd, err := unix.MemfdCreate("netroot-root", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "netroot-root")
	pause, failures, last := d.pause, 0, time.Now() // since the last byte arrived
	for {
		before, url := d.have, d.urls[0]
		err := d.fetch(ctx, file)
		if err == nil {
			return file, nil
		}
		if d.have > before {
			pause, failures, last = d.pause, 0, time.Now()
		}
		failures++
		d.urls = append(d.urls[1:], url)
		err = fmt.Errorf("fetch %s: %w", url, err)
		all := failures%len(d.urls) == 0 // servers were asked
		if ctx.Err() != nil || errors.Is(err, errNoMemory) || d.have == 0 && all || time.Since(last) > d.stalled {
			return nil, errors.Join(err, file.Close())
		}
		next := fmt.Sprintf("going on at %s", mib(d.have))
		if len(d.urls) > 1 {
			next += " from " + d.urls[0]
		}
		if !all {
			d.report.Fault(fmt.Errorf("%w; %s", err, next))
			continue
		}
		d.report.Fault(fmt.Errorf("%w; %s in %v", err, next, pause))
		devices.Pause(ctx, pause)
		pause = min(2*pause, longestPause)
	}
}

var (
	errNoMemory = errors.New("not enough memory")
	errSilent   = errors.New("the server sent nothing for too long")
)

// Web sends requests. A server that has vanished is noticed within half a minute, by keepalive or
// by the lack of a response.
var Web = &http.Client{Transport: &http.Transport{DialContext: keepAlive.DialContext, ResponseHeaderTimeout: requestTimeout}}

// fetch makes one request to the first server, for what is missing, and ends it when the server
// falls silent.
func (d *download) fetch(ctx context.Context, file *os.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(d.silence, func() { cancel(errSilent) })
	defer silent.Stop()
	err := d.request(ctx, file, func() { silent.Reset(d.silence) })
	if err != nil && context.Cause(ctx) == errSilent {
		err = fmt.Errorf("%w (%v)", errSilent, d.silence)
	}
	return err
}

// request makes the request, and calls heard whenever something has arrived.
func (d *download) request(ctx context.Context, file *os.File, heard func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.urls[0], nil)
	if err != nil {
		return err
	}
	if d.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
		if d.tag != "" {
			req.Header.Set("If-Range", d.tag) // a file that has changed is sent from its beginning
		}
	}
	resp, err := Web.Do(req)
	var named *url.Error
	if errors.As(err, &named) {
		err = named.Err // run names the URL
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
	if err := d.copy(io.LimitReader(resp.Body, d.size-d.have), file, heard); err != nil {
		return err
	}
	if got := handoff.DigestSum(d.sum); d.want != "" && got != d.want {
		d.have = 0 // everything has to be fetched again
		return fmt.Errorf("what came has digest %s", got)
	}
	return nil
}

// begin checks that the memory can hold what the server will send from the first byte on.
func (d *download) begin(resp *http.Response, file *os.File) error {
	if resp.ContentLength <= 0 {
		return errors.New("the server does not say how much there is")
	}
	if err := file.Truncate(0); err != nil { // of a part of another file
		return err
	}
	d.size, d.have, d.tag = resp.ContentLength, 0, resp.Header.Get("ETag")
	if strings.HasPrefix(d.tag, "W/") {
		d.tag = "" // If-Range requires a strong one (RFC 9110, 13.1.5)
	}
	d.sum.Reset()
	if free := devices.AvailableMemory(d.meminfo); free < d.size+memoryReserve {
		return fmt.Errorf("%w: the image is %s and %s are free, of which %s must stay: use a transport that reads on demand",
			errNoMemory, mib(d.size), mib(free), mib(int64(memoryReserve)))
	}
	return nil
}

// copy writes and digests what arrives, and reports the progress every two seconds.
func (d *download) copy(body io.Reader, file *os.File, heard func()) error {
	said := time.Now()
	buf := make([]byte, 256<<10)
	for d.have < d.size {
		n, err := body.Read(buf)
		if n > 0 {
			heard()
			if _, err := file.WriteAt(buf[:n], d.have); err != nil {
				return err
			}
			d.sum.Write(buf[:n])
			d.have += int64(n)
		}
		if time.Since(said) > 2*time.Second {
			said = time.Now()
			rate := mib(int64(float64(d.have) / time.Since(d.began).Seconds()))
			d.report.Note(fmt.Sprintf("%s of %s, %s/s", mib(d.have), mib(d.size), rate))
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

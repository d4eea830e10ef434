package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/boot"
)

// ErrNone is matched by the error of Dial when no daemon listens.
var ErrNone = errors.New("no daemon is running")

// Client asks one daemon.
type Client struct {
	Socket string
	http   http.Client
}

const (
	clientTimeout = 30 * time.Second
	maxAnswer     = 4 << 20
)

// Dial returns a client of the daemon that listens on the first of these sockets on which one does.
// The error matches ErrNone when there is none; another one says that there may be one that cannot
// be asked.
func Dial(ctx context.Context, sockets ...string) (*Client, error) {
	var failed error
	for _, path := range sockets {
		c := &Client{Socket: path}
		nc, err := c.dial(ctx)
		if err == nil {
			nc.Close()
			c.http = http.Client{Timeout: clientTimeout, Transport: &http.Transport{
				DisableKeepAlives: true,
				DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
			}}
			return c, nil
		}
		switch {
		case failed != nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ECONNREFUSED):
		case errors.Is(err, unix.EACCES):
			failed = fmt.Errorf("the daemon cannot be asked, since %s is for its own user only", path)
		default:
			failed = fmt.Errorf("the daemon cannot be asked: %w", err)
		}
	}
	if failed == nil {
		failed = ErrNone
	}
	return nil, failed
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", c.Socket)
}

// Revision asks which configuration the daemon acts on.
func (c *Client) Revision(ctx context.Context) (Revision, error) {
	var r Revision
	return r, c.get(ctx, RevisionPath, nil, &r)
}

// Plan asks what a machine would be told.
func (c *Client) Plan(ctx context.Context, m boot.Machine) (Plan, error) {
	var p Plan
	return p, c.get(ctx, PlanPath, query(m), &p)
}

func (c *Client) get(ctx context.Context, path string, q url.Values, answer any) error {
	u := url.URL{Scheme: "http", Host: "netroot", Path: path, RawQuery: q.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(body, &f) == nil && f.Error != "" {
			return told{resp.StatusCode, f.Error}
		}
		return fmt.Errorf("the daemon answers %s", resp.Status)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("the daemon's answer: %w", err)
	}
	return nil
}

// told is an error that the daemon has sent.
type told struct {
	status int
	text   string
}

func (t told) Error() string        { return t.text }
func (t told) Is(target error) bool { return target == ErrNotFound && t.status == http.StatusNotFound }

package bootstrap

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// busybox makes a Tree of one program: MirrorURL is the URL of a statically linked busybox. The
// program comes from the network, so it runs only inside the Tree.
func busybox(ctx context.Context, j Job) error {
	url := j.header("MirrorURL")
	if url == "" {
		return errors.New("MirrorURL: is missing: set it to the URL of a busybox program")
	}
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return fmt.Errorf("MirrorURL: %s is not an http:// or https:// URL", url)
	}
	if err := baseDirs(j.Root); err != nil {
		return err
	}
	root, err := os.OpenRoot(j.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll("bin", 0o755); err != nil {
		return err
	}
	if err := j.fetchTo(ctx, url, root, "bin/busybox", 0o755); err != nil {
		return fmt.Errorf("MirrorURL: %w", err)
	}
	if err := checkProgram(root, "bin/busybox"); err != nil {
		return fmt.Errorf("MirrorURL: %s: %w", url, err)
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:!:0:0:root:/root:/bin/sh\n",
		"etc/group":  "root:x:0:\n",
		"etc/hosts":  "127.0.0.1 localhost\n::1 localhost\n",
	} {
		if err := root.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return j.runInside(ctx, "/bin/busybox", "--install", "/bin")
}

// fetchTo downloads a URL into a file in root.
func (j Job) fetchTo(ctx context.Context, url string, root *os.Root, name string, mode os.FileMode) error {
	body, err := j.fetch(ctx, url)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := root.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	if err := errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return fmt.Errorf("fetch %s: %w", url, err)
	}
	return nil
}

// fetch requests a URL. A response other than status 200 is an error.
func (j Job) fetch(ctx context.Context, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	j.logf("fetching %s", url)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		client.CloseIdleConnections()
		return nil, fmt.Errorf("fetch %s: the server answered %s", url, resp.Status)
	}
	idle := closeFunc(func() error { client.CloseIdleConnections(); return nil })
	return struct {
		io.Reader
		io.Closer
	}{resp.Body, closeAll{resp.Body, idle}}, nil
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

// checkProgram refuses a file that is not a program for this machine, such as an error page, and a
// program that needs libraries, because the Tree has none.
func checkProgram(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	program, err := elf.NewFile(f)
	if err != nil {
		return fmt.Errorf("not a program: %w", err)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("linked to libraries, which the tree does not have: use a statically linked program")
		}
	}
	return nil
}

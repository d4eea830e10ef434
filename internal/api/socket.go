package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"netroot/internal/site"
)

// RunDirVariable names another directory for root's sockets in the environment: that of a second
// daemon, or of a test.
const RunDirVariable = "NETROOT_RUN_DIR"

// runDir is where root's sockets are.
func runDir() string { return cmp.Or(os.Getenv(RunDirVariable), "/run/netroot") }

// Sockets returns the paths on which the daemon of a state directory may listen: root's, and the
// present user's. The name follows from the state directory, so daemons of several state
// directories do not share a socket.
func Sockets(state string) []string {
	name := socketName(state)
	all := []string{filepath.Join(runDir(), name)}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		all = append(all, filepath.Join(dir, "netroot", name))
	}
	return all
}

// AllSockets returns the sockets of the daemons of all state directories, in the directories in
// which Sockets has them.
func AllSockets() []string {
	var all []string
	for _, path := range Sockets(site.DefaultState) {
		found, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "netroot*.sock")) // the pattern is right
		all = append(all, found...)
	}
	return all
}

// OwnSocket is where a daemon of this user listens. The error says why there is no place.
func OwnSocket(state string) (string, error) {
	all := Sockets(state)
	if os.Geteuid() != 0 && len(all) == 1 {
		return "", errors.New("XDG_RUNTIME_DIR is not set")
	}
	return all[len(all)-1], nil
}

func socketName(state string) string {
	if state == site.DefaultState {
		return "netroot.sock"
	}
	sum := sha256.Sum256([]byte(state))
	return "netroot-" + hex.EncodeToString(sum[:6]) + ".sock"
}

// Listen listens on a socket that this user alone may connect to. One that a daemon has left that
// was killed is replaced.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) {
		c, other := Dial(ctx, path)
		switch {
		case other == nil:
			return nil, fmt.Errorf("API socket %s: another daemon listens there", c.Socket)
		case !errors.Is(other, ErrNone):
			return nil, fmt.Errorf("API socket: %w", other)
		}
		if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("API socket: %s is there and is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("API socket: %w", err)
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("API socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("API socket: %w", err)
	}
	return l, nil
}

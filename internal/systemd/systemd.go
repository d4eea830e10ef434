// Package systemd speaks with the service manager that has started a daemon: it takes the sockets
// that the manager has opened (sd_listen_fds(3)), and tells it what the daemon does (sd_notify(3)).
//
// Without a manager there are no sockets, and telling does nothing. It is not a client of systemd's
// D-Bus interface.
package systemd

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Sockets are those that the manager has opened, by the name that its unit gives them
// (FileDescriptorName=).
type Sockets struct {
	Streams map[string]net.Listener
	Packets map[string]net.PacketConn
}

// Take returns the sockets of the manager, once: children of the process do not see them. Each has
// one of the names known, and no two of a kind have the same.
func Take(known []string) (Sockets, error) {
	s := Sockets{map[string]net.Listener{}, map[string]net.PacketConn{}}
	for _, f := range activation.Files(true) {
		if err := s.take(f, known); err != nil {
			s.Close()
			return Sockets{}, err
		}
	}
	return s, nil
}

func (s Sockets) take(f *os.File, known []string) error {
	defer f.Close() // those below are copies
	name := f.Name()
	if !slices.Contains(known, name) {
		return fmt.Errorf("systemd: a socket is called %q: set FileDescriptorName= in its unit to one of %s", name, strings.Join(known, ", "))
	}
	if l, err := net.FileListener(f); err == nil {
		if s.Streams[name] != nil {
			l.Close()
			return fmt.Errorf("systemd: two sockets are called %q", name)
		}
		s.Streams[name] = l
		return nil
	}
	p, err := net.FilePacketConn(f)
	if err != nil {
		return fmt.Errorf("systemd: socket %s: %w", name, err)
	}
	if s.Packets[name] != nil {
		p.Close()
		return fmt.Errorf("systemd: two datagram sockets are called %q", name)
	}
	s.Packets[name] = p
	return nil
}

// Stream takes the listener of that name, nil when there is none.
func (s Sockets) Stream(name string) net.Listener {
	l := s.Streams[name]
	delete(s.Streams, name)
	return l
}

// Packet takes the datagram socket of that name, nil when there is none.
func (s Sockets) Packet(name string) net.PacketConn {
	p := s.Packets[name]
	delete(s.Packets, name)
	return p
}

// Close closes the sockets that were not taken.
func (s Sockets) Close() {
	for _, l := range s.Streams {
		l.Close()
	}
	for _, p := range s.Packets {
		p.Close()
	}
}

// Names returns the names of the sockets that were not taken.
func (s Sockets) Names() []string {
	names := slices.Collect(maps.Keys(s.Streams))
	for name := range s.Packets {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Manager is told what the daemon does. Messages that do not reach it are logged: the daemon serves
// all the same.
type Manager struct{ Log *slog.Logger }

// Ready says that the daemon serves, and describes it.
func (m Manager) Ready(status string) { m.tell(daemon.SdNotifyReady, "STATUS="+line(status)) }

// Status describes what the daemon does.
func (m Manager) Status(status string) { m.tell("STATUS=" + line(status)) }

// Reloading says that the daemon reads its configuration again, for a unit of Type=notify-reload;
// Ready follows it.
func (m Manager) Reloading() {
	m.tell(daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()))
}

// Stopping says that the daemon ends.
func (m Manager) Stopping() { m.tell(daemon.SdNotifyStopping) }

func (m Manager) tell(assignments ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(assignments, "\n")); err != nil {
		m.Log.Warn("systemd: not told", "what", assignments[0], "why", err)
	}
}

// line is the first line of a text.
func line(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

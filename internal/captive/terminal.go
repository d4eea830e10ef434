package captive

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// foreground reports whether stdin is a terminal and we are its foreground process group.
func foreground(stdin io.Reader) (fd int, ok bool) {
	f, ok := stdin.(*os.File)
	if !ok {
		return 0, false
	}
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return int(f.Fd()), err == nil && group == unix.Getpgrp()
}

// KeepTerminal notes the modes of a terminal whose foreground we are. The function that it returns
// restores modes and foreground: a command that was killed leaves raw modes, and a shell in a pid
// namespace of its own its dead group. On anything else it does nothing.
func KeepTerminal(stdin io.Reader) (restore func()) {
	fd, ok := foreground(stdin)
	if !ok {
		return func() {}
	}
	modes, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	group := unix.Getpgrp()
	return func() {
		// A background process that sets the group is stopped, unless this signal is ignored:
		// tcsetpgrp(3).
		signal.Ignore(syscall.SIGTTOU)
		defer signal.Reset(syscall.SIGTTOU)
		// A terminal that is gone needs no setting.
		_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, group)
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, modes)
	}
}

// LeaveKeys makes a context that Ctrl-C and Ctrl-\ do not end, for as long as a command in the
// foreground gets their signals. SIGTERM and SIGHUP end it.
func LeaveKeys(ctx context.Context) (context.Context, func()) {
	keys := make(chan os.Signal, 1) // they are caught, and not read
	signal.Notify(keys, syscall.SIGINT, syscall.SIGQUIT)
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGTERM, syscall.SIGHUP)
	return ctx, func() { stop(); signal.Stop(keys) }
}

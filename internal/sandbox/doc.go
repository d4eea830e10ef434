// Package sandbox runs commands inside a Tree (a root file system that is a directory) and helper
// commands on the host. When a command ends in any way, its processes and mounts are gone.
//
// The package executes the program's own binary again as the first process of new mount, pid and
// ipc namespaces. That process (Main, in inner.go) arranges the file systems, runs one command, and
// reaps the processes that the command leaves. A control socket connects it with its parent: when
// the parent dies, even by SIGKILL, the socket closes, and the inner process kills everything and
// restores the Tree. When the inner process itself dies, the kernel kills every process of its pid
// namespace, and the mounts end with the last of them.
//
// A command inside a Tree sees:
//
//	/            the Tree, writable, with its submounts
//	/proc        of the new pid namespace
//	/sys         read-only
//	/dev         a small tmpfs: null zero full random urandom tty, ptmx with a separate devpts,
//	             shm, links for fd and stdio
//	/tmp         an empty tmpfs, removed afterwards
//	/var/tmp     the Tree's own, on disk: for files too large for memory; they stay in the Tree
//	/run         the Tree's own; it has no files of a running machine
//	network      the host's
//
// /etc/resolv.conf and /etc/hosts are the Tree's if they are usable. Otherwise they have the host's
// content during the run; afterwards that content is removed, unless the command changed the file:
// what a section writes there stays. (Apptainer mounts copies over both files, so that changes are
// lost, and an rm or mv fails with EBUSY.) staged.go has the details. It also describes the
// policy-rc.d that keeps Debian's packages from starting daemons on the host's network during a
// build.
//
// The umask is 0022, not 0002 as Apptainer forces. System files that a group may write are a risk
// on the node, and the packages of the distributions expect 0022. Set Umask for another value.
//
// With NoSync, fsync and similar system calls return at once: nosync.go. This is for a Tree that is
// deleted if anything fails.
//
// # Terminals
//
// A command whose standard input is a terminal is in the caller's session and process group; there
// is no second terminal in between. The kernel sends Ctrl-C, Ctrl-\ and Ctrl-Z to the command as to
// any other, and a shell makes its own process groups and moves the terminal's foreground among
// them. The caller must do three things. It must not react to SIGINT and SIGQUIT, which it also
// receives while it is in the foreground. It must set the terminal's foreground group back to its
// own afterwards, because a shell inside cannot name a group outside its pid namespace. It must
// restore the terminal's modes, which a killed program leaves behind. tty(1) prints "not a tty"
// inside, because the terminal's name belongs to the host's /dev; /dev/tty works.
//
// The sandbox is not a security boundary. The command is root with all capabilities, on the host's
// network and kernel; a recipe is a program that its owner runs as root.
package sandbox

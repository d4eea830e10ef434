// Package sandbox runs commands inside a Tree (a root filesystem that is a directory) and helper commands on the
// host, so that whatever they start or mount is gone when they end, however they end.
//
// It re-executes the program's own binary as the first process of new mount, pid and ipc namespaces. That process
// (Main, in inner.go) arranges the file systems, runs the one command, and reaps what the command leaves behind. A
// control socket ties it to its parent: when the parent dies, even by SIGKILL, the socket closes and the inner process
// kills everything and puts the Tree back in order. When the inner process itself dies, the kernel kills every process
// of its pid namespace, and with the last of them the mounts go.
//
// What a command sees inside a Tree:
//
//	/            the Tree, writable, with its submounts
//	/proc        of the new pid namespace
//	/sys         read-only
//	/dev         a small tmpfs: null zero full random urandom tty, ptmx with devpts of its own, shm, fd and stdio links
//	/tmp         an empty tmpfs that vanishes afterwards
//	/var/tmp     the Tree's own: on disk, so the place for what is too big for memory, and it stays in the Tree
//	/run         the Tree's own: what it finds there on a running machine was never here
//	network      the host's
//
// /etc/resolv.conf and /etc/hosts are the Tree's where they are usable. Otherwise the host's content stands in for the
// run and is taken away again, unless the command changed the file: what a section writes there stays. (Apptainer binds
// copies over both, so that such changes are lost, and an rm or mv fails with EBUSY.) See staged.go, also for the
// policy-rc.d that keeps Debian's packages from starting daemons on the host's network during a build.
//
// The umask is 0022, not the 0002 that Apptainer forces whoever calls it: system files that a group may write are a
// trap for the node, and the distributions' packages expect 0022. Who needs the other sets Umask.
//
// With NoSync, fsync and its kin return at once: nosync.go. It is for a Tree that is thrown away if anything goes wrong.
//
// # Terminals
//
// A command that is given a terminal as its standard input is in the caller's session and process group; there is no
// second terminal in between. So the kernel sends Ctrl-C, Ctrl-\ and Ctrl-Z to the command as to any other, and a shell
// makes process groups of its own and moves the terminal's foreground among them. It asks three things of the caller:
// not to take SIGINT and SIGQUIT for itself, which it gets, too, as long as it is in the foreground; to set the
// terminal's foreground group back to its own afterwards, because a shell inside cannot name a group outside its pid
// namespace; and to restore the terminal's modes, which a killed program leaves behind. tty(1) says "not a tty" inside,
// for the terminal's name belongs to the host's /dev; /dev/tty works.
//
// It is not a security boundary. The command is root with all capabilities, on the host's network and kernel; a recipe
// is a program that its owner runs as root.
package sandbox

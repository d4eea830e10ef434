package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// user is the user who makes a system call.
type user struct {
	uid, gid int
	groups   []int
}

func (u user) String() string { return fmt.Sprintf("%d:%d", u.uid, u.gid) }

// users returns root and four users who share some groups but not others. Without root it returns
// only the current user.
func users() []user {
	if os.Geteuid() != 0 {
		return []user{{os.Getuid(), os.Getgid(), nil}}
	}
	many := []int{3000} // the greatest number of groups in NFS
	for i := range 15 {
		many = append(many, 3001+i)
	}
	return []user{{0, 0, []int{0}}, {1000, 1000, []int{2000}}, {1001, 1001, []int{2000, 2001}}, {1002, 2001, nil}, {1003, 1003, many}}
}

// actor is a thread that runs as one user, with its own working directory and umask. As root, it
// also has its own root directory, and links cannot lead out of that directory.
type actor struct {
	user user
	todo chan func()
}

// confined reports whether actors cannot leave their directory.
func confined() bool { return os.Geteuid() == 0 }

// newActor starts the thread, with the root directory work and the working directory inside. The
// actor ends when todo is closed. The kernel's thread ends with it, because no other goroutine may
// run as that user.
func newActor(u user, work, inside string) (*actor, error) {
	a := &actor{u, make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		ready <- become(u, work, inside)
		for do := range a.todo {
			do()
		}
	}()
	return a, <-ready
}

// become changes the ids and directories of this thread only. The functions of package syscall
// would change those of the whole process.
func become(u user, work, inside string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("separate working directory for user %s: %w", u, err)
	}
	unix.Umask(0o022)
	if err := unix.Chdir(filepath.Join(work, inside)); err != nil {
		return fmt.Errorf("work in %s: %w", work, err)
	}
	if !confined() {
		return nil
	}
	if err := unix.Chroot(work); err != nil {
		return fmt.Errorf("change the root to %s: %w", work, err)
	}
	if err := setGroups(u.groups); err != nil {
		return fmt.Errorf("set the groups of user %s: %w", u, err)
	}
	for _, call := range []struct{ number, id uintptr }{{unix.SYS_SETRESGID, uintptr(u.gid)}, {unix.SYS_SETRESUID, uintptr(u.uid)}} {
		if _, _, errno := unix.RawSyscall(call.number, call.id, call.id, call.id); errno != 0 {
			return fmt.Errorf("become user %s: %w", u, errno)
		}
	}
	return nil
}

// run makes the actor do something, and waits for it.
func (a *actor) run(do func() string) (outcome string) {
	done := make(chan struct{})
	a.todo <- func() {
		outcome = do()
		close(done)
	}
	<-done
	return outcome
}

// errno returns the name of a system call's error.
func errno(err error) string {
	if err == nil {
		return "ok"
	}
	if e, is := err.(unix.Errno); is {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// setGroups sets the groups of this thread only.
func setGroups(groups []int) error {
	list := make([]uint32, len(groups)+1) // never empty, because its address is taken
	for i, g := range groups {
		list[i] = uint32(g)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0); errno != 0 {
		return errno
	}
	return nil
}

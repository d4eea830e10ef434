// Package privilege takes from a process that root has started what it does not need any more.
//
// It knows nothing of what needs which capability: its caller says which ones stay
// (capabilities(7)). It does not change the user of the process.
package privilege

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Capability is the number of a capability (linux/capability.h).
type Capability uint

// Those that programs of ours keep.
const (
	Chown          Capability = unix.CAP_CHOWN
	DACOverride    Capability = unix.CAP_DAC_OVERRIDE
	DACReadSearch  Capability = unix.CAP_DAC_READ_SEARCH
	FOwner         Capability = unix.CAP_FOWNER
	FSetID         Capability = unix.CAP_FSETID
	SetGID         Capability = unix.CAP_SETGID
	SetUID         Capability = unix.CAP_SETUID
	NetBindService Capability = unix.CAP_NET_BIND_SERVICE
	MkNod          Capability = unix.CAP_MKNOD
	SysAdmin       Capability = unix.CAP_SYS_ADMIN
)

// names are spelled as in capabilities(7), in lower case and without "cap_".
var names = map[Capability]string{
	Chown: "chown", DACOverride: "dac_override", DACReadSearch: "dac_read_search", FOwner: "fowner", FSetID: "fsetid",
	SetGID: "setgid", SetUID: "setuid", NetBindService: "net_bind_service", MkNod: "mknod", SysAdmin: "sys_admin",
}

func (c Capability) String() string {
	if name, ok := names[c]; ok {
		return name
	}
	return strconv.Itoa(int(c))
}

// ErrThreads is matched by the error of Keep in a program that is linked with C, whose threads Go
// cannot reach.
var ErrThreads = errors.New("this program was built with cgo: build it with CGO_ENABLED=0")

// Keep drops all capabilities of all threads of this process but those named, from the effective,
// permitted, inheritable, ambient and bounding sets, and has no program that the process executes
// gain any (PR_SET_NO_NEW_PRIVS). Those named that the process does not have it does not get. The
// latent ones stay permitted and are not effective: the kernel refuses what needs them, but for a
// thread that makes them effective for one call.
func Keep(caps, latent []Capability) error {
	own, err := permitted()
	if err != nil {
		return err
	}
	var keep, permit uint64
	for _, c := range caps {
		keep |= 1 << c
	}
	for _, c := range latent {
		permit |= 1 << c
	}
	keep &= own
	permit = permit&own | keep
	last, err := lastCapability()
	if err != nil {
		return err
	}
	if err := prctl(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	for c := Capability(0); c <= last && own&(1<<unix.CAP_SETPCAP) != 0; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		if err := prctl(unix.PR_CAPBSET_DROP, uintptr(c)); err != nil {
			return fmt.Errorf("drop capability %s from the bounding set: %w", c, err)
		}
	}
	if err := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	if err := set(keep, permit); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}

// all makes a system call on every thread. The runtime refuses it in a program that is linked with
// C.
//
//go:uintptrescapes
func all(trap, a1, a2, a3 uintptr) error {
	_, _, e := syscall.AllThreadsSyscall(trap, a1, a2, a3)
	switch e {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return ErrThreads
	}
	return e
}

func prctl(option int, arg uintptr) error { return all(unix.SYS_PRCTL, uintptr(option), arg, 0) }

// header and data are those of capset(2), version 3: two words of each set, the lower capabilities
// in the first.
type header struct {
	version uint32
	pid     int32
}

type data [2]struct{ effective, permitted, inheritable uint32 }

func set(effective, permitted uint64) error {
	h := &header{version: unix.LINUX_CAPABILITY_VERSION_3} // of pid 0: the thread that calls
	d := new(data)
	for i := range d {
		d[i].effective, d[i].permitted = uint32(effective>>(32*i)), uint32(permitted>>(32*i))
	}
	return all(unix.SYS_CAPSET, uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(d)), 0)
}

// permitted are the capabilities of this thread.
func permitted() (uint64, error) {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(d[0].Permitted) | uint64(d[1].Permitted)<<32, nil
}

// lastCapability is the highest one that the kernel knows.
func lastCapability() (Capability, error) {
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return 0, fmt.Errorf("which capabilities there are: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 6)
	if err != nil {
		return 0, fmt.Errorf("which capabilities there are: %w", err)
	}
	return Capability(n), nil
}

package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// auditArch are the machines whose system calls the filter knows; on others nothing is held back: linux/audit.h.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// syncCalls are those that wait for a disk and do nothing else. msync(2) is not among them: who maps a file may rely on
// the times that it sets.
var syncCalls = []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_SYNC_FILE_RANGE}

// holdBackSyncs has every system call that waits for a disk succeed at once, in this thread and in all that it starts
// from here on, by a filter of seccomp(2). A package manager asks for the disk thousands of times so that a crash leaves
// a system that boots; a Tree that a crash interrupts is thrown away.
//
// A kernel or container that takes no filter gives none: then it only lasts longer. No "no_new_privs" is needed, which
// would take their set-user-ID from programs: root may set filters without.
func holdBackSyncs() {
	arch, ok := auditArch[runtime.GOARCH]
	if !ok {
		return
	}
	// struct seccomp_data (linux/seccomp.h) has the number of the system call at 0 and the machine at 4. Programs of
	// another machine, 32-bit ones for instance, have other numbers, and are let through.
	const load, equal, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	n := uint8(len(syncCalls))
	program := []unix.SockFilter{
		{Code: load, K: 4},
		{Code: equal, K: arch, Jf: n + 1}, // to "allow"
		{Code: load, K: 0},
	}
	for i, call := range syncCalls {
		program = append(program, unix.SockFilter{Code: equal, K: call, Jt: n - uint8(i)}) // to "errno 0"
	}
	program = append(program,
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO}, // with errno 0: the call is skipped and returns 0
	)
	_, _, _ = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&unix.SockFprog{
		Len: uint16(len(program)), Filter: &program[0],
	})))
	runtime.KeepAlive(program)
}

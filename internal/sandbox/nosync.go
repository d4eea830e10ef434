package sandbox

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// auditArch has the architectures (linux/audit.h) whose system calls the filter knows. On others
// there is no filter.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// syncCalls are the system calls that only wait for a disk. msync(2) is not among them, because a
// program that maps a file may rely on the times that it sets.
var syncCalls = []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_SYNC, unix.SYS_SYNCFS, unix.SYS_SYNC_FILE_RANGE}

// holdBackSyncs installs a filter of seccomp(2) that makes every system call that waits for a disk
// succeed at once, in this thread and in everything that it starts afterwards. A package manager
// makes thousands of such calls, so that a system boots after a crash. A Tree whose build crashes
// is deleted.
//
// If a kernel or container does not accept a filter, the build only takes longer. The filter does
// not require "no_new_privs", which would disable set-user-ID programs, because root may install
// filters without it.
func holdBackSyncs() {
	arch, ok := auditArch[runtime.GOARCH]
	if !ok {
		return
	}
	// struct seccomp_data (linux/seccomp.h) has the number of the system call at offset 0 and
	// the architecture at offset 4. Programs of another architecture, for example 32-bit
	// programs, have other numbers and are not filtered.
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
		// With errno 0 the call is skipped and returns 0.
		unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO},
	)
	_, _, _ = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&unix.SockFprog{
		Len: uint16(len(program)), Filter: &program[0],
	})))
	runtime.KeepAlive(program)
}

// Package iscsi speaks iSCSI (RFC 7143): a read-only target for any io.ReaderAt, and the
// initiator's half of the login for a node that hands its socket to the Linux kernel.
//
// Each target is one disk, LUN 0, of 512-byte blocks, write-protected. A session has one connection
// and error recovery level 0; login does CHAP, one-way and mutual, and digests; discovery sessions
// answer SendTargets. The disk answers what Linux, qemu, libiscsi and iPXE send of SPC-4 and SBC-3;
// every command that would write gets DATA PROTECT, WRITE PROTECTED. Data is never solicited, so
// nothing but refused writes flows in.
//
// Sessions share a disk and nothing else: no reservations, no unit attentions, and a reset ends the
// commands of its own session only. It is not a writable target, has no multiple connections per
// session and no iSER, and it is not an initiator: after Login the kernel sends the commands
// (drivers/scsi/iscsi_tcp.c).
//
// Memory is bounded: what an initiator may send before it is logged in, the commands that one
// connection may have waiting (the CmdSN window) and running, the share of one peer address, and
// the buffers of all connections together. An idle connection costs one goroutine and about three
// kilobytes.
package iscsi

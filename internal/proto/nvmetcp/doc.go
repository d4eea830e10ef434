// Package nvmetcp serves read-only disks over NVMe/TCP, to the Linux kernel's host above all.
//
// The protocol is that of the NVM Express specifications: Base 2.0 (queues, fabrics commands,
// identify, logs), NVM Command Set 1.0 (reads) and TCP Transport 1.0 (PDUs and digests). Comments
// use their names. What a Linux host makes of an answer is in drivers/nvme/host: fabrics.c, tcp.c,
// core.c, multipath.c.
//
// A Subsystem is one disk: one namespace, number 1, write protected. A host makes its own
// controller with an admin connection, and one I/O connection to it for each queue. Any two servers
// that serve the same Subsystem are two paths to one disk: name, serial number and namespace
// identifiers are equal, ANA says that both are optimized, and controller numbers are random, so
// that they differ. Linux continues on the second when the first dies, by its own multipathing. The
// discovery subsystem lists the subsystems.
//
// It is not a writable target. It has no authentication, TLS, R2T or host side: hosts are kernels.
// Writes are answered with "Namespace is Write Protected".
//
// Memory is bounded four ways: what a host may send before it is connected, the reads that one
// connection may have under way, the share of one peer address, and the buffers of all connections
// together. An idle connection costs one goroutine and about a kilobyte of buffer.
package nvmetcp

// Package nbd speaks the Network Block Device protocol: a read-only server for any io.ReaderAt, and
// the client's half of the handshake for a node that hands its socket to the Linux kernel.
//
// The protocol is doc/proto.md of the NetworkBlockDevice/nbd project; its names (NBD_OPT_GO,
// base:allocation) are used in comments. The server speaks fixed newstyle with LIST, INFO, GO,
// EXPORT_NAME, ABORT, STARTTLS, STRUCTURED_REPLY and metadata contexts, and answers READ,
// BLOCK_STATUS, CACHE, FLUSH and DISC. Everything that would write is refused with EPERM.
//
// It is not a writable server, has no overlays and no oldstyle negotiation, and it is not an NBD
// client: after Handshake the kernel sends the requests (drivers/block/nbd.c), which is why the
// client never negotiates structured replies.
//
// Memory is bounded four ways: what a client may send before it has an export, the requests that
// one connection may have in flight, the share of one peer address, and the buffers of all
// connections together. An idle connection costs one goroutine and about a kilobyte of buffer.
package nbd

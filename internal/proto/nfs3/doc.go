// Package nfs3 exports directories of this host to machines as their root file systems: an NFS
// version 3 and MOUNT version 3 server over TCP (RFC 1813) with AUTH_SYS, and the portmapper (RFC
// 1833) that clients without a port option ask.
//
// It is a user-space server of live trees on local file systems, which keep what a root needs:
// set-user-ID bits, owners, devices, hard links, holes. The kernel is the judge of every access: it
// runs with the client's ids on the thread that asks (cred.go). Handles are the kernel's own,
// sealed with a key (handle.go); they outlive renames and restarts. It needs root, and Linux 5.8 or
// later.
//
// It speaks no NFSv2 or v4, no UDP, no locks (NLM: clients mount with nolock) and no ACL side
// protocol; ACLs of the exported file system are honoured all the same, because it is the kernel
// that is asked.
//
// Memory is bounded as in package nbd: what one connection may have under way, and the buffers of
// all connections together. Open files are bounded by a cache that lets go of what is idle
// (cache.go).
package nfs3

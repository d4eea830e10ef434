package main

// serveHelp describes "netroot serve".
const serveHelp = `Serve boots machines from the images of the store: over HTTP the iPXE script,
the kernel and the initramfs, over NVMe/TCP, NBD, iSCSI or NFS the packed root. A
label takes the transport that its configuration names, or the first of these
that its kernel has. An empty address leaves a server out.

Over NFS there are also the trees of those labels whose configuration says
"transport: nfs" or "rw: true", to machines of the networks that it names. The NFS
server requires root; without root it is not started.

Point a machine's iPXE at http://SERVER:8010/boot/LABEL.ipxe: by the "filename"
that your DHCP server gives to iPXE clients, by a script embedded in iPXE, or by
hand with "chain". A machine gets the newest image of the label when it boots
and keeps that version for as long as it runs, whatever is built meanwhile.

Everything served is readable by everyone who reaches the ports.

CONFIGURATION

Netroot.yaml is read again when it changes, and on SIGHUP; clients stay connected.
The log says what has changed. A file with an error changes nothing: the log names
file and line, and the revision that stays in force. Layers are rendered again
within a second of the last change. "state" and the flags need a restart.

There need not be a configuration, a store or an image yet: the log says what is
not served, and an image is served when its build is done.

Without "rw" or "transport: nfs" a label's tree is not given to further machines;
machines that have it keep it until they leave.

DAEMON

"netroot plan" asks the running daemon through the socket of --socket, by default
/run/netroot/netroot.sock for root and $XDG_RUNTIME_DIR/netroot/netroot.sock for
others; with another state directory than /var/lib/netroot the name has a digest
of that directory. The daemon's health is GET /healthz there and at the address of
--health: JSON, status 200 when every task is ready and 503 when one is not. The
HTTP server for machines tells the status alone.

Under systemd, serve reports readiness (Type=notify-reload) and takes sockets whose
FileDescriptorName= is http, nvme, nbd, iscsi, nfs, portmap, health or api.

When its ports are open, a process of root drops all capabilities but these:

    all tasks    dac_read_search
    nfs          chown dac_override fowner fsetid mknod setgid setuid, and while
                 it opens a tree sys_admin (open_tree(2))

With SIGTERM or SIGINT the tasks end in order; the exit status is 143 or 130.

ONE COMMAND

With --run the servers are captive: they listen on free ports of 127.0.0.1, where
no address is given, a shell runs the command, and when it ends they end. Only
warnings are logged, and the exit status is the command's. Its environment names
the packed root of --image as foreign clients do:

    NETROOT_HTTP    URL, for curl and the like
    NETROOT_NBD     NBD URI, for libnbd and qemu
    NETROOT_ISCSI   iSCSI URL, for libiscsi and qemu
    NETROOT_NFS     NFS URL, for libnfs (root only)
    NETROOT_NVME    options of "nvme connect", to be used without quotes

With --tls-cert the NBD server speaks TLS with clients that ask for it (STARTTLS),
such as libnbd with nbds://. Nodes do not: their kernel's client has no TLS.`

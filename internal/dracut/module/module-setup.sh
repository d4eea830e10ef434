#!/bin/bash
# netroot's dracut module: a root over the network, with memory and configuration layers over it.
# dracut runs this when it makes the initramfs; the hooks beside it run when a machine boots.
# netroot-init, a static program, does their work.

# called by dracut
check() {
    [ -x "${moddir:?}/netroot-init" ] || return 1
    return 255 # only on request
}

# called by dracut
depends() {
    echo network
}

# called by dracut
installkernel() {
    # The overlay, the file systems of packed roots, and the transports that dracut has no module
    # for. Not every kernel has all of them, or has them as modules.
    hostonly='' instmods overlay squashfs erofs loop nvme_tcp nfs nfsv3
}

# called by dracut
install() {
    inst_simple "$moddir/netroot-init" /sbin/netroot-init
    inst_multiple -o modprobe
    # Before 90, where dracut's own parsers ask whose root= it is.
    inst_hook cmdline 20 "$moddir/netroot-cmdline.sh"
    inst_script "$moddir/netroot-attach.sh" /sbin/liveroot
    inst_script "$moddir/netroot-attach.sh" /sbin/nvmeroot
    inst_hook netroot 20 "$moddir/netroot-iscsi.sh"
    # Debian's iscsid.service runs this first, and dracut leaves it behind.
    inst_multiple -o /lib/open-iscsi/startup-checks.sh grep
    inst_hook pre-pivot 20 "$moddir/netroot-pivot.sh"
    if dracut_module_included systemd-initrd || dracut_module_included systemd; then
        inst_script "$moddir/netroot-generator.sh" "${systemdutildir:?}/system-generators/dracut-netroot-generator"
    fi
    dracut_need_initqueue
}

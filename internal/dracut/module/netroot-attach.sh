#!/bin/sh
# dracut runs this when the network is up, as /sbin/liveroot or /sbin/nvmeroot INTERFACE NETROOT
# NEWROOT. It attaches the root and makes /dev/root of its device, which the rest of dracut waits
# for.

type getarg > /dev/null 2>&1 || . /lib/dracut-lib.sh

mkdir /run/netroot-attached 2> /dev/null || exit 0 # another interface came up first

case "$2" in
    nvme:*) modprobe nvme_tcp ;;
    live:nfs:*) modprobe -a loop nfs nfsv3 ;;
    *) modprobe loop ;;
esac
until device=$(netroot-init dracut attach "$(getcmdline)"); do
    emergency_shell -n netroot "The root could not be attached; the reason is above. Exit this shell to try again."
done

echo "KERNEL==\"${device#/dev/}\", SYMLINK+=\"root\"" > /etc/udev/rules.d/99-netroot.rules
udevadm control --reload
udevadm trigger --action=add "/sys/class/block/${device#/dev/}"
udevadm settle --exit-if-exists=/dev/root

if [ -z "$DRACUT_SYSTEMD" ]; then
    type write_fs_tab > /dev/null 2>&1 || . /lib/fs-lib.sh
    write_fs_tab /dev/root "$(getarg rootfstype=)" ro
    printf '/bin/mount %s\n' "$3" > "${hookdir:?}/mount/01-netroot.sh"
fi
need_shutdown
exit 0

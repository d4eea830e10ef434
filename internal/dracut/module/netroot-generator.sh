#!/bin/sh
# A systemd generator of the initramfs: writes the mount unit of the root that netroot-attach.sh
# attaches. systemd itself would read root= as the name of a device. Removes the time limit of
# /dev/root, which may take long.

type getarg > /dev/null 2>&1 || . /lib/dracut-lib.sh

early=$2
[ -n "$early" ] || exit 1

mkdir -p "$early/dev-root.device.d"
printf '[Unit]\nJobTimeoutSec=infinity\nJobRunningTimeoutSec=infinity\n' > "$early/dev-root.device.d/netroot.conf"

case "$(getarg root=)" in
    live:http://* | live:https://* | live:nfs://* | nvme:*) ;;
    *) exit 0 ;;
esac
fstype=$(getarg rootfstype=)
flags=$(getarg rootflags=)
{
    echo "[Unit]"
    echo "Before=initrd-root-fs.target"
    echo "[Mount]"
    echo "Where=/sysroot"
    echo "What=/dev/root"
    [ -z "$fstype" ] || echo "Type=$fstype"
    echo "Options=ro${flags:+,$flags}"
} > "$early/sysroot.mount"
mkdir -p "$early/initrd-root-fs.target.requires"
ln -sf ../sysroot.mount "$early/initrd-root-fs.target.requires/sysroot.mount"
exit 0

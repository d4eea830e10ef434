#!/bin/sh
# A systemd generator of the initramfs: how the root is mounted that netroot-attach.sh brings. systemd itself would take
# root= for the name of a device. And /dev/root may be long in coming, whoever brings it.

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

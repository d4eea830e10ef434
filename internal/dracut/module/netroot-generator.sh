#!/bin/sh
# A systemd generator of the initramfs: writes the mount unit of the root that netroot-attach.sh
# attaches. systemd itself would read root= as the name of a device. Removes the time limit of
# /dev/root, which may take long. Has systemd-networkd, where that is in the initramfs, ask for the
# address of the boot interface.

type getarg > /dev/null 2>&1 || . /lib/dracut-lib.sh

early=$2
[ -n "$early" ] || exit 1

mkdir -p "$early/dev-root.device.d"
printf '[Unit]\nJobTimeoutSec=infinity\nJobRunningTimeoutSec=infinity\n' > "$early/dev-root.device.d/netroot.conf"

# Whether ip= asks for an address on the boot interface over DHCP.
asks_dhcp() {
    asked=0
    for arg in $(getargs ip=); do
        case "$arg" in
            dhcp | on | any | BOOTIF:dhcp* | *:BOOTIF:dhcp*) return 0 ;;
        esac
        asked=1
    done
    return $asked
}

# What BOOTIF= and ip=dhcp mean together depends on the version of systemd-network-generator: until
# 260 it ignores BOOTIF= and asks on every interface, and does not know the interface BOOTIF in ip=;
# from 261 on BOOTIF= without ip=BOOTIF:dhcp has the boot interface ask nobody. network-legacy, for
# its part, waits for an interface that is called BOOTIF. This file comes before those of the
# generator, and means the same to all versions.
bootif=$(getarg BOOTIF=)
if [ -n "$bootif" ] && [ -x "${PREFIX-}/usr/lib/systemd/systemd-networkd" ] && asks_dhcp; then
    case ${#bootif} in
        20 | 62) bootif=${bootif#???} ;; # without the hardware type
    esac
    mkdir -p "${PREFIX-}/run/systemd/network"
    {
        printf '[Match]\nMACAddress=%s\nKind=!*\n' "$(str_replace "$bootif" - :)"
        # The root needs the address after networkd has ended here.
        printf '[Network]\nDHCP=ipv4\nKeepConfiguration=dhcp-on-stop\n'
        # The client is known as it is to the boot loader, and by the keeper that renews the lease.
        printf '[DHCPv4]\nClientIdentifier=mac\nSendRelease=no\n'
    } > "${PREFIX-}/run/systemd/network/00-netroot.network"
fi

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

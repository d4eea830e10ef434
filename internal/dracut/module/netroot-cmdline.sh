#!/bin/sh
# Sourced by dracut before its own parsers of root=. Claims the roots that dracut has no module for,
# and names the node as an iSCSI initiator: the name in an image would be the same on every node.

# shellcheck disable=SC2034 # root, netroot and rootok are dracut's

type getarg > /dev/null 2>&1 || . /lib/dracut-lib.sh

[ -n "$root" ] || root=$(getarg root=)
case "$root" in
    live:http://* | live:https://* | live:nfs://* | nvme:*)
        netroot=$root # dracut calls WORDroot, of what is before the first colon, when the network is up
        root=block:/dev/root
        rootok=1
        wait_for_dev -n /dev/root
        ;;
esac

case "$root $(getargs netroot=)" in
    *iscsi:*)
        if [ ! -e /run/initiatorname.iscsi ] && [ ! -d /sys/firmware/ibft ] && ! getarg rd.iscsi.initiator= > /dev/null; then
            # Without our name dracut makes one up.
            if initiator=$(netroot-init dracut initiator "$(getcmdline)"); then
                echo "$initiator" > /run/initiatorname.iscsi
                mkdir -p /etc/iscsi
                ln -sf /run/initiatorname.iscsi /etc/iscsi/initiatorname.iscsi
            fi
        fi
        ;;
esac

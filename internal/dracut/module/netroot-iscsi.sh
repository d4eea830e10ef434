#!/bin/sh
# Sourced by dracut when the network is up, before it logs in to an iSCSI target: records the target
# at the address that the command line names. dracut asks the server for its targets and uses the
# address in the response. Behind a router that translates addresses, the server cannot be reached
# at that address.
# shellcheck disable=SC2154 # netroot is dracut's, the others parse_iscsi_root sets

type parse_iscsi_root > /dev/null 2>&1 || . /lib/net-lib.sh

case "$netroot" in
    iscsi:*)
        (
            parse_iscsi_root "${netroot#iscsi:}" || exit
            iscsiadm -m node -o new -T "$iscsi_target_name" -p "$iscsi_target_ip:${iscsi_target_port:-3260}" > /dev/null
        )
        ;;
esac

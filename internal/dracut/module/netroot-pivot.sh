#!/bin/sh
# Sourced by dracut when the root is mounted, before the switch to it: puts memory and layers over
# it and gives it this node's identity.

type getarg > /dev/null 2>&1 || . /lib/dracut-lib.sh

modprobe overlay 2> /dev/null
until netroot-init dracut pivot "$(getcmdline)"; do
    emergency_shell -n netroot "The root could not be prepared; the reason is above. Exit this shell to try again."
done

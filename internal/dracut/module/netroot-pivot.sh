#!/bin/sh
# Sourced by dracut when the root is mounted, before it is switched to: lays memory and layers over it and gives it this
# node's identity.

type getarg > /dev/null 2>&1 || . /lib/dracut-lib.sh

modprobe overlay 2> /dev/null
until netroot-init dracut pivot "$(getcmdline)"; do
    emergency_shell -n netroot "The root could not be made ready; the reason is above. Leaving this shell tries again."
done

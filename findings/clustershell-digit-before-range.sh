#!/usr/bin/env bash
# ClusterShell 1.9.1: a digit before a range is put before the ends of the range, not before each of its numbers.
. "$(dirname "$0")/install.bash"
debs python3-clustershell=1.9.1-1 python3-yaml
python=/usr/bin/python3
[ -x "$python" ] || gone "Debian's python3"
export PYTHONPATH=$folder/root/usr/lib/python3/dist-packages

ask() { # EXPRESSION: its nodes folded, and how many they are
  "$python" -c 'import sys; from ClusterShell.NodeSet import NodeSet; n = NodeSet(sys.argv[1]); print(n, len(n))' "$1"
}
expect() { # EXPRESSION WANT
  local got
  got=$(ask "$1") || gone "a ClusterShell that runs"
  echo "$1 is $got nodes"
  [ "$got" = "$2" ] || changed "$1 was $2"
}

"$python" -c 'import ClusterShell; print("ClusterShell", ClusterShell.__version__)' || gone "a ClusterShell that runs"
expect "n1[5-7]" "n[15-17] 3"
expect "n1[8-10]" "n[18-110] 93"
expect "n1[8,9,10]" "n[18-110] 93"
expect "n1[8,10]" "n[18,110] 2"
expect "n1[8-10]-ib" "n[18-110]-ib 93"
expect "n1[8-10]4" "n[184,194,1104] 3"

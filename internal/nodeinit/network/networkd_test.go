package network

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// renamed makes an interface that is configured as the init does it, renames it, and starts
// systemd-networkd with FILE and with a file of the image for the new name. It prints which file
// networkd takes, and the addresses that the interface then has. networkd regards a read-only /sys
// as a container's, in which no udev runs.
const renamed = `set -e
mount --make-rprivate /
mount -t sysfs -o ro sysfs /sys
for dir in /run /etc/systemd/network /usr/lib/systemd/network; do mkdir -p $dir; mount -t tmpfs tmpfs $dir; done
mkdir -p /run/systemd/network /run/systemd/netif/links /run/dbus
ip link set lo up
ip link add boot0 address 52:54:00:12:34:56 type veth peer name boot1
ip link property add dev boot0 altname "$ALTNAME"
ip link set boot0 name lan0
ip link set boot1 up
ip link set lan0 up
ip addr add 10.1.2.3/24 dev lan0
printf %s "$FILE" > /run/systemd/network/00-netroot.network
printf '[Match]\nName=lan*\n[Network]\nAddress=192.168.9.9/24\n' > /run/systemd/network/50-site.network
mkfifo /run/log
SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console /usr/lib/systemd/systemd-networkd > /run/log 2>&1 &
while read -r line; do
	case "$line" in
		*"lan0: "*"atching network"*) echo "$line"; break ;;
	esac
done < /run/log
kill $!
wait $! || true
ip -4 -o addr show lan0
`

// systemd-networkd recognises the boot interface after the image's rules have renamed it.
func TestNetworkdAfterRename(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	if _, err := os.Stat("/usr/lib/systemd/systemd-networkd"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("systemd-networkd is missing: %v", err)
		}
		t.Skipf("systemd-networkd is missing: %v", err)
	}
	cfg := &Config{Link: "boot0", Index: 2, MAC: "52:54:00:12:34:56", Address: netip.MustParsePrefix("10.1.2.3/24")}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", renamed)
	cmd.Env = append(os.Environ(), "FILE="+networkdFile(cfg), "ALTNAME="+AlternativeName)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if text := string(out); err != nil || !strings.Contains(text, "'/run/systemd/network/00-netroot.network'") || !strings.Contains(text, "10.1.2.3/24") || strings.Contains(text, "192.168.9.9") {
		t.Errorf("%v\n%s", err, text)
	}
}

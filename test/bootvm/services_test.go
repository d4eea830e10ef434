package bootvm

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
)

// servicesConfig is the path of these tests' configuration, relative to the working directory of the
// lab's commands.
const servicesConfig = "test/bootvm/testdata/services/netroot.yaml"

// buildServices builds a label of these tests, unless the state directory that is kept has it.
func buildServices(ctx context.Context, t *testing.T, label string, args ...string) {
	t.Helper()
	if os.Getenv("NETROOT_BOOT_STATE") != "" && run(ctx, "--config", servicesConfig, "plan", label).err == nil {
		return
	}
	r := run(ctx, slices.Concat([]string{"--config", servicesConfig, "build", label, "--level", "1"}, args)...)
	t.Log(r.stdout)
	if r.err != nil {
		t.Fatal(r.all())
	}
}

// TestSysvinit boots Debian with sysvinit: its scripts run, it has a name, the keeper outlives them,
// and the machine powers off.
func TestSysvinit(t *testing.T) {
	needLong(t)
	t.Parallel()
	ctx := limit(t, 3*bootLimit)
	buildServices(ctx, t, "sysvinit")
	const questions = `
echo "init $(readlink -f /proc/1/exe)"
echo "systemd $(ls -d /run/systemd/system 2>&1 | grep -c '^/run')"
echo "name $(hostname) $(cat /etc/hostname)"
echo "keeper $([ "$(cat /run/sendsigs.omit.d/netroot)" = "$(pgrep -fox @netroot-keeper)" ] && echo spared)"
echo "scripts $(pgrep -cx cron) $(pgrep -cx getty | sed 's/[1-9]/some/')"
echo "fstab $(grep -vc '^#' /etc/fstab)"`
	m := machine{Label: "sysvinit", Transport: "nbd", Args: []string{"--config", servicesConfig}}
	r := m.boot(ctx, t, questions)
	if r.err != nil {
		t.Fatal(r.all())
	}
	for _, want := range []string{"init /usr/sbin/init", "systemd 0", "name node-525400123456 node-525400123456", "keeper spared", "scripts 1 some", "fstab 0"} {
		if !strings.Contains(r.stdout, want+"\n") {
			t.Errorf("lacks %q", want)
		}
	}
	if !strings.Contains(r.console, "/etc/fstab: left out, because this machine has no such disk: /boot/efi") {
		t.Error("the console does not name the line of /etc/fstab that was left out")
	}
	if t.Failed() {
		t.Log(r.all())
	}
}

// initiatorQuestions handle the services of all three initiators as an administrator may, and read
// files that nothing has cached meanwhile.
const initiatorQuestions = `
read_all() { echo 3 > /proc/sys/vm/drop_caches; find /usr/bin /usr/sbin -type f | xargs cat | cksum > /run/$1; }
read_all before
systemctl restart iscsid open-iscsi nbd-client
iscsiadm -m session --logout
iscsiadm -m node --logoutall=all
nvme connect-all
systemctl restart nvmf-autoconnect
systemctl stop nvmf-connect.target
read_all after
echo "same $(cmp /run/before /run/after && echo yes)"
echo "state $(systemctl is-system-running --wait)"
echo "adopted $(journalctl -b -u iscsid | grep -c operational)"
echo "connections $(ss -Htn state established 'sport != :22' | wc -l)"
echo "lost $(dmesg | grep -c 'netroot: keeper: the connection')"
echo "image $(findmnt -no TARGET /live/image)"
`

// TestInitiators boots a root that has the programs of open-iscsi, nvme-cli and nbd-client over the
// transport of each, twice: the root has one owner, whatever these services do.
func TestInitiators(t *testing.T) {
	needLong(t)
	ctx := limit(t, 3*bootLimit)
	buildServices(ctx, t, "initiators", "--build-arg", "TREE="+treeDir())
	for _, transport := range []string{"iscsi", "nvme", "nbd"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			ctx := limit(t, 2*bootLimit)
			s := machine{Label: "initiators", Transport: transport, Args: []string{"--config", servicesConfig}}.session(ctx, t)
			s.greet()
			for boot := range 2 {
				if boot > 0 {
					s.reboot()
				}
				got := s.ask(initiatorQuestions)
				want := []string{"same yes", "state running", "adopted 0", "lost 0", "image /live/image"}
				if transport != "nvme" { // which has one for each processor, and one more
					want = append(want, "connections 1")
				}
				for _, line := range want {
					if !strings.Contains(got, line+"\n") {
						t.Errorf("boot %d lacks %q:\n%s", boot, line, got)
					}
				}
			}
			if r := s.powerOff(); r.err != nil {
				t.Error(r.all())
			}
		})
	}
}

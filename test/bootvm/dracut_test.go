package bootvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/internal/config"
)

// dracutConfig is the path of the dracut tests' configuration, relative to the working directory of
// the lab's commands.
const dracutConfig = "test/bootvm/testdata/dracut/netroot.yaml"

// dracutImage builds the image once, from the lab's debian12 and the packages that the example
// configuration names.
var dracutImage struct {
	once sync.Once
	err  error
}

func needDracut(t *testing.T) {
	t.Helper()
	needLab(t)
	dracutImage.once.Do(func() { dracutImage.err = buildDracut(context.Background()) })
	if dracutImage.err != nil {
		t.Fatal(dracutImage.err)
	}
}

func buildDracut(ctx context.Context) error {
	if os.Getenv("NETROOT_BOOT_STATE") != "" && run(ctx, "--config", dracutConfig, "plan", "debian12-dracut", "--initramfs", "dracut", "--transport", "http").err == nil {
		return nil
	}
	cfg, err := config.Load("../../netroot.yaml")
	if err != nil {
		return err
	}
	l, err := cfg.Label("debian12-dracut")
	if err != nil {
		return err
	}
	r := run(ctx, "--config", dracutConfig, "build", "debian12-dracut", "--level", "1",
		"--build-arg", "TREE="+treeDir(), "--build-arg", "PACKAGES="+l.BuildArgs["PACKAGES"])
	fmt.Println(r.stdout)
	if r.err != nil {
		return fmt.Errorf("netroot build debian12-dracut: %s", r.all())
	}
	return nil
}

// dracutQuestions ask for what must hold on a node with any initramfs.
const dracutQuestions = `
echo "state $(systemctl is-system-running --wait)"
systemctl --failed --plain --no-legend
echo "root $(findmnt -no FSTYPE /) over $(findmnt -nro FSTYPE,SOURCE /live/image) $(findmnt -no OPTIONS /live/image | cut -d, -f1), cow $(findmnt -no FSTYPE /live/cow)"
echo "machine-id $(wc -c < /etc/machine-id) $(cmp -s /etc/machine-id /live/image/etc/machine-id && echo image || echo own)"
echo "resolv $(grep -c ^nameserver /etc/resolv.conf)"
echo "written $(echo x > /etc/written && cat /etc/written)"
echo "address $(ip -4 addr show scope global | grep -A1 10.0.2.15/24 | grep -c 'valid_lft forever')"
echo "keepers $(pgrep -cf ^@netroot-keeper)"
`

// dracutAnswers returns the right answers. The first is what the image is mounted from.
func dracutAnswers(image string, keepers int) []string {
	return []string{
		"state running", "root overlay over " + image + " ro, cow tmpfs", "machine-id 33 own", "resolv 1", "written x", "address 1",
		fmt.Sprintf("keepers %d", keepers),
	}
}

// TestDracut boots over every transport that dracut and its programs support, and kills the server
// while the machine runs. The keeper holds the lease and the NBD connection.
func TestDracut(t *testing.T) {
	needDracut(t)
	t.Parallel()
	for transport, image := range map[string]string{
		"nbd":   "squashfs /dev/nbd0",
		"iscsi": "squashfs /dev/sda",
		"nfs":   "nfs 10.0.2.2:/debian12-dracut",
	} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			testDracutLoss(t, transport, image)
		})
	}
}

func testDracutLoss(t *testing.T, transport, image string) {
	address := freePort(t)
	args, more := []string{"--config", dracutConfig}, []string(nil)
	if transport == "nfs" {
		more = []string{"--nfs-any-port"} // qemu's user network translates ports
	}
	server := startServe(t, transport, address, append(more, args...)...)
	ctx := limit(t, bootLimit)
	m := machine{Label: "debian12-dracut", Transport: transport, Initramfs: "dracut", Args: append(args, "--server", address)}
	b := m.start(ctx, t, dracutQuestions+`
echo 3 > /proc/sys/vm/drop_caches
echo reading
`+readMuch)
	b.says(ctx, t, "reading")
	away(ctx, t, server)
	startServe(t, transport, address, append(more, args...)...)
	r := b.wait()
	if r.err != nil {
		t.Fatal(r.all())
	}
	r.has(t, append(dracutAnswers(image, 1), digestIn(t, filepath.Join(lab.state, "trees", "debian12-dracut")))...)
	_, rest, _ := strings.Cut(r.stdout, "longest ")
	stall, _, _ := strings.Cut(rest, "\n")
	if seconds, err := strconv.Atoi(stall); err != nil || seconds < int(serverAway/time.Second)/2 {
		t.Errorf("the node was without its root for %q s: did it read all before the server was killed?", stall)
	}
	b.note("server away %s, longest stall %s s", serverAway, stall)
}

// TestDracutLayers boots over HTTP, which our own module supports, with layers of the tree and of
// the server.
func TestDracutLayers(t *testing.T) {
	needDracut(t)
	t.Parallel()
	m := machine{Label: "debian12-dracut", Transport: "http", Initramfs: "dracut", Args: []string{"--config", dracutConfig, "--layers", "site,a,b"}}
	r := m.boot(limit(t, bootLimit), t, dracutQuestions+`
echo "both $(cat /etc/both), all $(cat /etc/all), link $(readlink /etc/link)"
echo "odd $(stat -c '%a %u %g' /etc/profile.d/odd)"
echo "gone $(ls -d /etc/issue /etc/of-b /srv/gone /relative 2> /dev/null)"
echo "image $(ls -d /live/image/etc/issue /live/image/srv/gone /live/image/etc/both 2> /dev/null | tr '\n' ' ')"
echo "tree $(ls /etc/rootovl | tr '\n' ' ')"
`)
	if r.err != nil {
		t.Fatal(r.all())
	}
	r.has(t, append(dracutAnswers("squashfs /dev/loop0", 1),
		"both a, all site, link /etc/both", "odd 6711 1 2", "gone ", "image /live/image/etc/issue /live/image/srv/gone ", "tree a b file ")...)
	for _, said := range []string{
		"netroot: attach:", "netroot: mount:", "netroot: layers: 2 of 4 in the tree", "netroot: identity:", "netroot: layers: FAILED: none: the root has no /etc/rootovl/none",
		"file: /etc/rootovl/file is not a directory", `"relative" is not an absolute path`, `"/" is the root itself`,
	} {
		if !strings.Contains(r.console, said) {
			t.Errorf("the console does not say %s", said)
		}
	}
}

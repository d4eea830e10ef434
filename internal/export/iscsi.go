package export

import (
	"fmt"
	"slices"
	"strings"

	"netroot/internal/boot"
)

// TgtLUN is the LUN of the only disk of a target of tgtd, which keeps 0 for its controller. LIO's is 0.
const TgtLUN = 1

// ISCSI is for tgtd (targets.conf(5)) and for LIO, the kernel's target (targetcli(8)). In both the target's name is what a
// plan asks for. The command line of a plan is for one of them, so there are two: tgt has d.Cmdline, LIO lio.
func ISCSI(d Disk, lio []string) (Set, error) {
	const dir = "/etc/tgt/conf.d/"
	targets, err := Targets(d)
	if err != nil {
		return Set{}, err
	}
	iqn := boot.IQN(d.Image)
	name := d.Image + ".conf"
	script := d.Image + ".targetcli"
	return Set{
		Files: []File{
			{"tgt/" + name, dir + name, targets},
			{"lio/" + script, "targetcli", targetcli(d, iqn)},
		},
		Steps: []string{
			"Take one of the two. For tgt copy to the path named above; /etc/tgt/targets.conf must have\n\"include /etc/tgt/conf.d/*.conf\". Then: tgt-admin --update " + iqn,
			"For LIO: targetcli <" + script + " && targetcli saveconfig",
			"Leave the targets of older versions for as long as a machine runs from one.",
		},
		Boots: []Boot{{"tgt", d.Cmdline}, {"LIO", lio}},
	}, nil
}

// Targets is the configuration of tgtd for one disk. Without allow-in-use tgt-admin passes over a file that somebody else
// has open, such as "netroot serve", and says nothing.
func Targets(d Disk) (string, error) {
	if err := checkPath(d.Path); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<target %s>\n", boot.IQN(d.Image))
	fmt.Fprintf(&b, "    <backing-store %s>\n        lun %d\n        readonly 1\n    </backing-store>\n", d.Path, TgtLUN)
	b.WriteString("    allow-in-use yes\n")
	for _, p := range d.Clients {
		fmt.Fprintf(&b, "    initiator-address %s\n", network(p))
	}
	b.WriteString("</target>\n")
	return b.String(), nil
}

// targetcli are commands for targetcli. A target that makes no difference between initiators lets them read alone
// (demo_mode_write_protect): the nodes are as many as there are, and none has a name that the server knows beforehand.
func targetcli(d Disk, iqn string) string {
	store := strings.ReplaceAll(d.Image, "@", "-")
	lines := []string{
		fmt.Sprintf("/backstores/fileio create name=%s file_or_dev=%s write_back=false", store, d.Path),
		fmt.Sprintf("/iscsi create wwn=%s", iqn),
		fmt.Sprintf("/iscsi/%s/tpg1/luns create /backstores/fileio/%s lun=0", iqn, store),
		fmt.Sprintf("/iscsi/%s/tpg1 set attribute authentication=0 generate_node_acls=1 cache_dynamic_acls=1 demo_mode_write_protect=1", iqn),
	}
	return strings.Join(slices.Concat(lines, []string{""}), "\n")
}

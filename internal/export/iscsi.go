package export

import (
	"fmt"
	"slices"
	"strings"

	"netroot/internal/boot"
)

// TgtLUN is the LUN of the only disk of a target of tgtd, whose LUN 0 is the controller. LIO's disk
// is LUN 0.
const TgtLUN = 1

// ISCSI returns configuration for tgtd (targets.conf(5)) and for LIO, the kernel's target
// (targetcli(8)). In both, the name of the target is the one in a plan. The kernel arguments of a
// plan are for one server, so there are two: those for tgt are d.Cmdline, those for LIO are lio.
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
			"Use one of the two. For tgt, copy the file to the path above; /etc/tgt/targets.conf must contain\n\"include /etc/tgt/conf.d/*.conf\". Then run: tgt-admin --update " + iqn,
			"For LIO, run: targetcli <" + script + " && targetcli saveconfig",
			"Keep the targets of older versions for as long as a machine runs from them.",
		},
		Boots: []Boot{{"tgt", d.Cmdline}, {"LIO", lio}},
	}, nil
}

// Targets returns the configuration of tgtd for one disk. Without allow-in-use, tgt-admin silently
// skips a file that another program, such as "netroot serve", has open.
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

// targetcli returns commands for targetcli. The target does not distinguish between initiators, so
// they may only read (demo_mode_write_protect): the server knows neither the number nor the names
// of the nodes in advance.
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

package export

import (
	"fmt"
	"net/netip"
	"strings"
)

// Disk is a packed root that is served as a block device.
type Disk struct {
	Image   string         // "label@id"
	Path    string         // of the packed root, absolute
	Clients []netip.Prefix // who may connect; none: everybody
	Cmdline []string       // of the plan that boots from it
}

// NBD is for nbd-server(1). Its exports are a section each (nbd-server(5)), and the name of ours is what a plan asks for:
// one version, so that a machine that comes back gets the bytes it had.
func NBD(d Disk) (Set, error) {
	if err := checkPath(d.Path); err != nil {
		return Set{}, err
	}
	const dir = "/etc/nbd-server/conf.d/"
	name := d.Image + ".conf"
	var files []File
	auth := ""
	if len(d.Clients) > 0 {
		var list strings.Builder
		for _, p := range d.Clients {
			fmt.Fprintln(&list, p)
		}
		auth = dir + d.Image + ".allow"
		files = append(files, File{"nbd-server/" + d.Image + ".allow", auth, list.String()})
	}
	files = append(files, File{"nbd-server/" + name, dir + name, nbdSection(d.Image, d.Path, auth)})
	return Set{
		Files: files,
		Steps: []string{
			"Copy to the paths named above. The main configuration, /etc/nbd-server/config, must have\n\"includedir = /etc/nbd-server/conf.d\" in its section [generic], as Debian's does.",
			"killall -HUP nbd-server: the new export is added, and those in use go on.",
			"Leave the files of older versions for as long as a machine runs from one.",
		},
		Boots: []Boot{{"", d.Cmdline}},
	}, nil
}

// nbdSection is the section of one export.
func nbdSection(image, path, auth string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[%s]\n", image)
	fmt.Fprintf(&b, "    exportname = %s\n", path)
	b.WriteString("    readonly = true\n    multifile = false\n    copyonwrite = false\n")
	if auth != "" {
		fmt.Fprintf(&b, "    authfile = %s\n", auth)
	}
	return b.String()
}

// NBDServer is the whole configuration of an nbd-server of one disk, listening there alone.
func NBDServer(d Disk, listen netip.AddrPort) (string, error) {
	if err := checkPath(d.Path); err != nil {
		return "", err
	}
	return fmt.Sprintf("[generic]\n    listenaddr = %s\n    port = %d\n", listen.Addr(), listen.Port()) + nbdSection(d.Image, d.Path, ""), nil
}

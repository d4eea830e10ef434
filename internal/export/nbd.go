package export

import (
	"fmt"
	"net/netip"
	"strings"
)

// Disk is a packed root that is served as a block device.
type Disk struct {
	Image   string         // "label@id"
	Path    string         // absolute path of the packed root
	Clients []netip.Prefix // machines that may connect; empty: all
	Cmdline []string       // kernel arguments of a plan that boots from it
}

// NBD returns configuration for nbd-server(1). Each export is a section (nbd-server(5)). The name
// of an export is the one in a plan: it names one version, so that a machine that reconnects gets
// the same bytes.
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
			"Copy the files to the paths above. The main configuration, /etc/nbd-server/config, must contain\n\"includedir = /etc/nbd-server/conf.d\" in its section [generic], as on Debian.",
			"Run killall -HUP nbd-server: it adds the new export, and exports in use continue.",
			"Keep the files of older versions for as long as a machine runs from them.",
		},
		Boots: []Boot{{"", d.Cmdline}},
	}, nil
}

// nbdSection returns the section of one export.
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

// NBDServer returns the complete configuration of an nbd-server that serves one disk at one
// address.
func NBDServer(d Disk, listen netip.AddrPort) (string, error) {
	if err := checkPath(d.Path); err != nil {
		return "", err
	}
	return fmt.Sprintf("[generic]\n    listenaddr = %s\n    port = %d\n", listen.Addr(), listen.Port()) + nbdSection(d.Image, d.Path, ""), nil
}

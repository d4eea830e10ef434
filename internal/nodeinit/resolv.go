package nodeinit

import (
	"os"
	"strings"

	"netroot/internal/layer"
)

const resolvConf = "etc/resolv.conf"

// needsResolvConf reports whether nobody else says where the root's name servers are: neither the
// author of the recipe did in the file, nor will a service of the image. A link to a file that the
// image does not have is systemd-resolved's if that runs, which has the name servers from
// network.ServiceFiles, and otherwise nobody's: what else would write the file is not told of the
// boot interface.
func needsResolvConf(root *os.Root) bool {
	st, err := root.Lstat(resolvConf)
	if err != nil {
		return os.IsNotExist(err)
	}
	path, err := layer.Resolve(root, resolvConf)
	if err != nil {
		target, _ := root.Readlink(resolvConf)
		return st.Mode()&os.ModeSymlink != 0 && !(strings.Contains(target, "systemd/resolve/") && resolvedRuns(root))
	}
	text, err := root.ReadFile(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "nameserver") {
			return false
		}
	}
	return true
}

// resolvedRuns reports whether systemd-resolved is installed and enabled, as systemctl(1) does it.
func resolvedRuns(root *os.Root) bool {
	has := func(names ...string) bool {
		for _, name := range names {
			if _, err := root.Lstat(name); err == nil {
				return true
			}
		}
		return false
	}
	const unit = "systemd-resolved.service"
	if target, err := root.Readlink("etc/systemd/system/" + unit); err == nil && target == "/dev/null" {
		return false // masked
	}
	return has("usr/lib/systemd/systemd-resolved", "lib/systemd/systemd-resolved") &&
		has("etc/systemd/system/multi-user.target.wants/"+unit, "etc/systemd/system/sysinit.target.wants/"+unit,
			"usr/lib/systemd/system/multi-user.target.wants/"+unit, "usr/lib/systemd/system/sysinit.target.wants/"+unit)
}

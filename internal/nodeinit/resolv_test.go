package nodeinit

import "testing"

// TestNeedsResolvConf: a link that leads nowhere is nobody's, unless systemd-resolved will make its
// target.
func TestNeedsResolvConf(t *testing.T) {
	const stub, program = "-> ../run/systemd/resolve/stub-resolv.conf", "usr/lib/systemd/systemd-resolved"
	const wants = "etc/systemd/system/multi-user.target.wants/systemd-resolved.service"
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"nothing":                      {map[string]string{"etc/x": ""}, true},
		"an empty file":                {map[string]string{"etc/resolv.conf": "# none\n"}, true},
		"the author's":                 {map[string]string{"etc/resolv.conf": "nameserver 192.0.2.1\n"}, false},
		"a link to the author's":       {map[string]string{"etc/resolv.conf": "-> /etc/resolv.static", "etc/resolv.static": "nameserver 192.0.2.1\n"}, false},
		"a link to nothing in it":      {map[string]string{"etc/resolv.conf": "-> resolv.static", "etc/resolv.static": "# none\n"}, true},
		"resolved":                     {map[string]string{"etc/resolv.conf": stub, program: "", wants: "-> " + program}, false},
		"resolved, its other file":     {map[string]string{"etc/resolv.conf": "-> /run/systemd/resolve/resolv.conf", program: "", wants: "-> " + program}, false},
		"resolved, as the vendor says": {map[string]string{"etc/resolv.conf": stub, program: "", "usr/lib/systemd/system/sysinit.target.wants/systemd-resolved.service": ""}, false},
		"resolved is not enabled":      {map[string]string{"etc/resolv.conf": stub, program: ""}, true},
		"resolved is not installed":    {map[string]string{"etc/resolv.conf": stub, wants: "-> " + program}, true},
		"resolved is masked":           {map[string]string{"etc/resolv.conf": stub, program: "", wants: "-> " + program, "etc/systemd/system/systemd-resolved.service": "-> /dev/null"}, true},
		"resolvconf":                   {map[string]string{"etc/resolv.conf": "-> ../run/resolvconf/resolv.conf"}, true},
		"NetworkManager":               {map[string]string{"etc/resolv.conf": "-> /run/NetworkManager/resolv.conf"}, true},
		"a directory":                  {map[string]string{"etc/resolv.conf/x": ""}, false},
	} {
		root, _ := tree(t, c.files)
		if got := needsResolvConf(root); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

package sandbox

import (
	"slices"
	"strings"

	"netroot/internal/recipe"
)

// Environ returns the environment for a section inside a Tree, sorted. host is the caller's environment, of which only
// the terminal's type, the proxies, and APPTAINERENV_X and SINGULARITYENV_X (as X, the first winning) are taken;
// header is the recipe's header, whose keys scripts written for Singularity 2 read as SINGULARITY_DEFFILE_<KEY>.
func Environ(host []string, header recipe.Header) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": "/root",
		"LANG": "C",
		// systemctl then does not look for a running systemd (systemd, docs/ENVIRONMENT.md); see park for the others.
		"SYSTEMD_OFFLINE":    "1",
		"APPTAINER_ROOTFS":   "/",
		"SINGULARITY_ROOTFS": "/",
	}
	addSectionVars(env, header)
	for _, prefix := range []string{"SINGULARITYENV_", "APPTAINERENV_"} {
		for _, kv := range host {
			k, v, _ := strings.Cut(kv, "=")
			if name, ok := strings.CutPrefix(k, prefix); ok && name != "" {
				env[name] = v
			} else if passed(k) {
				env[k] = v
			}
		}
	}
	return flatten(env)
}

// HostEnviron returns the environment for %pre and %setup: the caller's own, and where the Tree lies.
func HostEnviron(host []string, root string, header recipe.Header) []string {
	env := map[string]string{}
	for _, kv := range host {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	env["APPTAINER_ROOTFS"], env["SINGULARITY_ROOTFS"] = root, root
	addSectionVars(env, header)
	return flatten(env)
}

func addSectionVars(env map[string]string, header recipe.Header) {
	const added = "/.singularity.d/env/91-environment.sh" // scripts append `export X=1` to it
	env["APPTAINER_ENVIRONMENT"], env["SINGULARITY_ENVIRONMENT"] = added, added
	for _, f := range header {
		env["SINGULARITY_DEFFILE_"+strings.ToUpper(f.Key)] = f.Value
	}
}

// passed reports whether a variable of the host goes into the Tree as it is.
func passed(name string) bool {
	if name == "TERM" {
		return true
	}
	proxies := []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}
	return slices.Contains(proxies, name) || slices.Contains(proxies, strings.ToLower(name)) && name == strings.ToUpper(name)
}

func flatten(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for k, v := range env {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

package sandbox

import (
	"path/filepath"
	"slices"
	"strings"

	"netroot/internal/recipe"
)

// Environ returns the environment for a section inside a Tree, sorted. host is the caller's environment, of which only
// the terminal's type, the proxies, SOURCE_DATE_EPOCH, and APPTAINERENV_X and SINGULARITYENV_X (as X, the first winning) are taken;
// header is the recipe's header, whose keys scripts written for Singularity 2 read as SINGULARITY_DEFFILE_<KEY>.
func Environ(host []string, header recipe.Header) []string {
	env := map[string]string{
		"PATH":               "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":               "/root",
		"LANG":               "C",
		"APPTAINER_ROOTFS":   "/",
		"SINGULARITY_ROOTFS": "/",
		// By these, shells' start-up files tell that they run inside.
		"APPTAINER_CONTAINER":   "/",
		"SINGULARITY_CONTAINER": "/",
		"APPTAINER_NAME":        "rootfs",
		"SINGULARITY_NAME":      "rootfs",
	}
	addSectionVars(env, "/", header)
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

// HostEnviron returns the environment for %pre and %setup: the caller's own, and where the Tree lies. The files that
// scripts append to are named below it: by their names in the Tree a script would write to the host's.
func HostEnviron(host []string, root string, header recipe.Header) []string {
	env := map[string]string{}
	for _, kv := range host {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	env["APPTAINER_ROOTFS"], env["SINGULARITY_ROOTFS"] = root, root
	addSectionVars(env, root, header)
	return flatten(env)
}

func addSectionVars(env map[string]string, root string, header recipe.Header) {
	// Files in the Tree that scripts append to: lines `export X=1`, and `KEY value`.
	exports, labels := filepath.Join(root, ".singularity.d/env/91-environment.sh"), filepath.Join(root, ".build.labels")
	env["APPTAINER_ENVIRONMENT"], env["SINGULARITY_ENVIRONMENT"] = exports, exports
	env["APPTAINER_LABELS"], env["SINGULARITY_LABELS"] = labels, labels
	for _, f := range header {
		env["SINGULARITY_DEFFILE_"+strings.ToUpper(f.Key)] = f.Value
	}
}

// passed reports whether a variable of the host goes into the Tree as it is.
func passed(name string) bool {
	if name == "TERM" || name == "SOURCE_DATE_EPOCH" {
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

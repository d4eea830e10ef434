package sandbox

import (
	"path/filepath"
	"slices"
	"strings"

	"netroot/internal/recipe"
)

// Environ returns the sorted environment for a section inside a Tree. From host, the caller's
// environment, it takes only the terminal's type, the proxies, SOURCE_DATE_EPOCH, and
// APPTAINERENV_X and SINGULARITYENV_X (as X; the first one wins). header is the recipe's header;
// scripts written for Singularity 2 read its keys as SINGULARITY_DEFFILE_<KEY>.
func Environ(host []string, header recipe.Header) []string {
	env := map[string]string{
		"PATH":               "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":               "/root",
		"LANG":               "C",
		"APPTAINER_ROOTFS":   "/",
		"SINGULARITY_ROOTFS": "/",
		// The start-up files of shells recognize a container by these variables.
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
			} else if copiedFromHost(k) {
				env[k] = v
			}
		}
	}
	return flatten(env)
}

// HostEnviron returns the environment for %pre and %setup: the caller's environment and the place
// of the Tree. The files that scripts append to have paths below that place; with their names in
// the Tree, a script would write to the host's files.
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
	// Scripts append lines `export X=1` and `KEY value` to these files of the Tree.
	exports, labels := filepath.Join(root, ".singularity.d/env/91-environment.sh"), filepath.Join(root, ".build.labels")
	env["APPTAINER_ENVIRONMENT"], env["SINGULARITY_ENVIRONMENT"] = exports, exports
	env["APPTAINER_LABELS"], env["SINGULARITY_LABELS"] = labels, labels
	for _, f := range header {
		env["SINGULARITY_DEFFILE_"+strings.ToUpper(f.Key)] = f.Value
	}
}

// copiedFromHost reports whether a variable of the host is copied into the Tree.
func copiedFromHost(name string) bool {
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

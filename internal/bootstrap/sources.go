package bootstrap

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// source is one entry of the host's apt sources: sources.list(5).
type source struct {
	URIs, Suites, Components []string
	Options                  []option // options about trust, in deb822 spelling
}

type option struct{ name, value string }

func (s source) has(suite string) bool { return slices.Contains(s.Suites, suite) }

// trusted reports whether apt accepts the source without a signature.
func (s source) trusted() bool {
	return slices.ContainsFunc(s.Options, func(o option) bool {
		return o.name == "Trusted" && slices.Contains([]string{"yes", "true", "with", "on", "enable", "1"}, strings.ToLower(o.value))
	})
}

// withoutKeys removes the keys of the sources, because the recipe names another key.
func withoutKeys(sources []source) []source {
	out := slices.Clone(sources)
	for i := range out {
		out[i].Options = slices.DeleteFunc(slices.Clone(out[i].Options), func(o option) bool { return o.name == "Signed-By" })
	}
	return out
}

// isList reports whether a MirrorURL is a list of one-line sources and not a URL.
func isList(mirror string) bool { return strings.HasPrefix(mirror, "deb ") }

// readSources reads sources.list and sources.list.d below etc, in apt's order. Without apt there
// are none.
func readSources(etc string) ([]source, error) {
	files := []string{filepath.Join(etc, "apt/sources.list")}
	parts, err := filepath.Glob(filepath.Join(etc, "apt/sources.list.d/*"))
	if err != nil {
		return nil, err
	}
	var all []source
	for _, f := range append(files, parts...) {
		data, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch filepath.Ext(f) { // apt ignores files with other extensions
		case ".list":
			all = append(all, parseList(string(data))...)
		case ".sources":
			all = append(all, parseDeb822(string(data))...)
		}
	}
	for i := range all {
		all[i].URIs = expandMirrors(all[i].URIs)
	}
	return all, nil
}

// expandMirrors replaces mirror+file:PATH with the mirrors that the file lists, because the Tree
// does not have this file of the host: apt-transport-mirror(1). Debian's cloud images use it.
func expandMirrors(uris []string) []string {
	var out []string
	for _, u := range uris {
		path, ok := strings.CutPrefix(u, "mirror+file:")
		if !ok {
			out = append(out, u)
			continue
		}
		data, err := os.ReadFile(filepath.Clean("/" + path))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
				out = append(out, words[0])
			}
		}
	}
	return out
}

// parseList parses the one-line style: `deb [ name=value ... ] uri suite component...`. It skips
// lines that it cannot parse, because most sources of the host do not matter here.
func parseList(text string) []source {
	var out []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		var s source
		rest = strings.TrimSpace(rest)
		if opts, after, found := strings.Cut(rest, "]"); found && strings.HasPrefix(rest, "[") {
			for _, o := range strings.Fields(opts[1:]) {
				if name, value, ok := strings.Cut(o, "="); ok {
					s.addOption(name, value)
				}
			}
			rest = after
		}
		if words := strings.Fields(rest); len(words) >= 3 {
			s.URIs, s.Suites, s.Components = words[:1], words[1:2], words[2:]
			out = append(out, s)
		}
	}
	return out
}

// parseDeb822 parses stanzas of `Name: value` lines. A line that begins with a blank continues the
// line before it.
func parseDeb822(text string) []source {
	var out []source
	var fields []option
	end := func() {
		if s, ok := fromFields(fields); ok {
			out = append(out, s)
		}
		fields = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			end()
		case line[0] == ' ' || line[0] == '\t':
			if n := len(fields); n > 0 {
				fields[n-1].value += "\n" + line
			}
		default:
			if name, value, ok := strings.Cut(line, ":"); ok {
				fields = append(fields, option{strings.TrimSpace(name), strings.TrimSpace(value)})
			}
		}
	}
	end()
	return out
}

func fromFields(fields []option) (source, bool) {
	var s source
	binary := false
	for _, f := range fields {
		words := strings.Fields(f.value)
		switch strings.ToLower(f.name) {
		case "types":
			binary = slices.Contains(words, "deb")
		case "uris":
			s.URIs = words
		case "suites":
			s.Suites = words
		case "components":
			s.Components = words
		case "enabled":
			if slices.Contains([]string{"no", "false", "without", "off", "disable"}, strings.ToLower(f.value)) {
				return source{}, false
			}
		default:
			s.addOption(f.name, f.value)
		}
	}
	return s, binary
}

// addOption keeps an option if it describes the archive and not how the host uses it.
func (s *source) addOption(name, value string) {
	for _, known := range []string{"Signed-By", "Trusted", "Check-Valid-Until", "Check-Date", "Date-Max-Future"} {
		if strings.EqualFold(name, known) && value != "" {
			s.Options = append(s.Options, option{known, value})
		}
	}
}

// forSuite returns the archives for a suite: the host's entries that name the suite or, if there
// are none, those for the host's release (codename), renamed to the suite, including -updates and
// -security. Only archives with a component main count: the other repositories of the host seldom
// exist for other suites, and their keys are not in the Tree.
func forSuite(all []source, host, suite string) []source {
	if own := renamed(all, suite, suite); len(own) > 0 {
		return own
	}
	if host == "" {
		return nil
	}
	return renamed(all, host, suite)
}

func renamed(all []source, from, to string) []source {
	// These have no -updates and -security.
	rolling := slices.Contains([]string{"sid", "unstable", "experimental"}, to)
	var out []source
	plain := false
	for _, s := range all {
		if !slices.Contains(s.Components, "main") || len(s.URIs) == 0 {
			continue
		}
		var suites []string
		for _, name := range s.Suites {
			pocket, ok := strings.CutPrefix(name, from)
			if ok && (pocket == "" || pocket[0] == '-' && !rolling) {
				suites = append(suites, to+pocket)
				plain = plain || pocket == ""
			}
		}
		if len(suites) > 0 {
			s.Suites = suites
			out = append(out, s)
		}
	}
	if !plain {
		return nil // the -updates of a suite alone are not a system
	}
	return out
}

// render returns sources in deb822 style.
func render(sources []source) string {
	var b strings.Builder
	for i, s := range sources {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\n",
			strings.Join(s.URIs, " "), strings.Join(s.Suites, " "), strings.Join(s.Components, " "))
		for _, o := range s.Options {
			fmt.Fprintf(&b, "%s: %s\n", o.name, o.value)
		}
	}
	return b.String()
}

// hostSuite returns the codename of the host's release from os-release(5), or "".
func hostSuite() string {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

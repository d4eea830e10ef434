package secrets

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Allow lists the findings that the user accepts: paths of the tree, such as
// "/etc/munge/munge.key", with *, ? and [] as in the shell. A directory stands for everything in
// it. A path need not exist.
type Allow []string

// Check returns an error for a pattern that cannot match anything, and for one that matches
// directories at the top, with all that is in them.
func (a Allow) Check() error {
	for _, p := range a {
		everything := strings.Count(clean(p), "/") == 1 && strings.ContainsAny(p, "*?[")
		if _, err := path.Match(clean(p), ""); err != nil || clean(p) == "/" || everything {
			return fmt.Errorf("allowed secret %q is not a path: use the path of a file in the tree, or a pattern such as /etc/ssl/private/*.key", p)
		}
	}
	return nil
}

func clean(p string) string { return path.Clean("/" + p) }

// Allows reports whether a file of the tree is accepted.
func (a Allow) Allows(file string) bool {
	for _, p := range a {
		for name := clean(file); name != "/"; name = path.Dir(name) {
			if ok, _ := path.Match(clean(p), name); ok {
				return true
			}
		}
	}
	return false
}

// Judge splits the findings that are not allowed into warnings, one line each, and secrets. The
// secrets are returned as an *Error, or nil if there are none.
func (a Allow) Judge(found []Finding) (warnings []string, err error) {
	var refused []Finding
	for _, f := range found {
		switch {
		case a.Allows(f.Path):
		case f.Packaged:
			warnings = append(warnings, fmt.Sprintf("%s: %s, as a package brought it: everyone who has the package has it", f.Path, f.Kind.Name()))
		case f.Kind.Warning():
			warnings = append(warnings, fmt.Sprintf("%s (%s)", f, f.Fix()))
		default:
			refused = append(refused, f)
		}
	}
	if refused != nil {
		return warnings, &Error{Findings: refused}
	}
	return warnings, nil
}

// Error lists the secrets in a tree that must not become an image, or in a layer that must not be
// served.
type Error struct {
	Findings []Finding
	Layer    bool
}

// Error lists every finding, the fix for each kind, and how to allow a finding.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Layer {
		b.WriteString("it contains secrets, and everyone who reaches the server could read them:\n")
	} else {
		b.WriteString("the tree contains secrets that everyone could read in the image:\n")
	}
	told := map[Kind]bool{}
	for _, f := range e.Findings {
		fmt.Fprintf(&b, "  %s\n", f)
		if !told[f.Kind] && !e.Layer {
			told[f.Kind] = true
			fmt.Fprintf(&b, "      %s\n", strings.ReplaceAll(f.Kind.Fix(), "FILE", strings.Join(paths(e.Findings, f.Kind), " ")))
		}
	}
	if e.Layer {
		b.WriteString("copy them to the nodes when they are up (docs/security.md), or name them in allow_secrets of the label")
	} else {
		b.WriteString("to allow a file in the image on purpose, use --allow-secret PATH or allow_secrets of the label")
	}
	return b.String()
}

// Brief names the files and the kinds in one line, for a log.
func (e *Error) Brief() string {
	var all []string
	for _, f := range e.Findings {
		if text := fmt.Sprintf("%s (%s)", f.Path, f.Kind.Name()); len(all) == 0 || all[len(all)-1] != text {
			all = append(all, text)
		}
	}
	const most = 5
	if more := len(all) - most; more > 0 {
		all = append(all[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(all, ", ")
}

// paths are the files with findings of a kind.
func paths(found []Finding, kind Kind) []string {
	var all []string
	for _, f := range found {
		if f.Kind == kind {
			all = append(all, f.Path)
		}
	}
	return slices.Compact(all)
}

// Removal is the shell command that removes what machines made for themselves, such as host keys in
// a tree that a machine has run from; empty: nothing of that kind was found. Each machine makes it
// anew.
func Removal(found []Finding) string {
	var commands, files []string
	for _, f := range found {
		switch texts[f.Kind].remove {
		case "":
		case rm:
			files = append(files, Quote(f.Path))
		default:
			commands = append(commands, strings.ReplaceAll(texts[f.Kind].remove, "FILE", Quote(f.Path)))
		}
	}
	if files = slices.Compact(files); files != nil {
		commands = append(commands, strings.ReplaceAll(rm, "FILE", strings.Join(files, " ")))
	}
	return strings.Join(slices.Compact(commands), "; ")
}

// Quote makes one word of a shell of a text.
func Quote(p string) string {
	if strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@") == "" {
		return p
	}
	return "'" + strings.ReplaceAll(p, "'", `'\''`) + "'"
}

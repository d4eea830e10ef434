package secrets

import (
	"fmt"
	"path"
	"strings"
)

// Allow lists the findings that the user accepts: paths of the tree, such as
// "/etc/munge/munge.key", with *, ? and [] as in the shell. A directory stands for everything in
// it. A path need not exist.
type Allow []string

// Check returns an error for a pattern that cannot match anything.
func (a Allow) Check() error {
	for _, p := range a {
		if _, err := path.Match(clean(p), ""); err != nil || clean(p) == "/" {
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
		case f.Kind.Warning():
			warnings = append(warnings, fmt.Sprintf("%s (%s)", f, f.Kind.Fix()))
		default:
			refused = append(refused, f)
		}
	}
	if refused != nil {
		return warnings, &Error{refused}
	}
	return warnings, nil
}

// Error lists the secrets in a tree that must not become an image.
type Error struct {
	Findings []Finding
}

// Error lists every finding, the fix for each kind, and how to allow a finding.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("the tree contains secrets that everyone could read in the image:\n")
	told := map[Kind]bool{}
	for _, f := range e.Findings {
		fmt.Fprintf(&b, "  %s\n", f)
		if !told[f.Kind] {
			told[f.Kind] = true
			fmt.Fprintf(&b, "      %s\n", f.Kind.Fix())
		}
	}
	b.WriteString("to allow a file in the image on purpose, use --allow-secret PATH or allow_secrets of the label")
	return b.String()
}

package secrets

import (
	"fmt"
	"path"
	"strings"
)

// Allow says which findings the user accepts: paths of the tree, "/etc/munge/munge.key", with *, ? and [] as in the
// shell. A folder stands for all that is in it. A path that is not there is fine.
type Allow []string

// Check returns an error for a pattern that can match nothing.
func (a Allow) Check() error {
	for _, p := range a {
		if _, err := path.Match(clean(p), ""); err != nil || clean(p) == "/" {
			return fmt.Errorf("allowed secret %q: give the path of a file in the tree, or a pattern: /etc/ssl/private/*.key", p)
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

// Judge divides what was found, less what is allowed, into warnings, one a line for the user, and secrets, which come
// as an *Error; nil when there are none.
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

// Error is a tree that must not become an image.
type Error struct {
	Findings []Finding
}

// Error names every finding, what to do about each kind, and how to do without.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("the tree holds secrets that everyone could read in the image:\n")
	told := map[Kind]bool{}
	for _, f := range e.Findings {
		fmt.Fprintf(&b, "  %s\n", f)
		if !told[f.Kind] {
			told[f.Kind] = true
			fmt.Fprintf(&b, "      %s\n", f.Kind.Fix())
		}
	}
	b.WriteString("where it is meant to be so, --allow-secret PATH, or the label's allow_secrets, says so")
	return b.String()
}

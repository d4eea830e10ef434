package recipe

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"netroot/internal/nearest"
)

// checkStrict refuses a line that Apptainer would not recognize as the beginning of a section, or
// would treat as the beginning of an unknown section.
func (s *scanner) checkStrict(n int, text, name, args string) error {
	word, _, _ := strings.Cut(text, " ")
	switch {
	case text[0] != '%':
		return s.fail(n, "", "a word that begins with % is indented, so Apptainer treats it as a section without a name", "write sections in column 1, and keep lines of scripts from beginning with %")
	case strings.Contains(word, "\t"):
		return s.fail(n, "", fmt.Sprintf("a tab follows %%%s, which Apptainer treats as part of the name", name), "use a blank")
	case !slices.Contains(sectionNames, name):
		return s.fail(n, "", unknown(name, args), sectionFix(name, args))
	case strings.HasPrefix(name, "app") && strings.TrimLeft(word, "%") != name:
		return s.fail(n, "", fmt.Sprintf("Apptainer requires app sections in lower case, not %s", word), "write %"+name)
	case name == "files" && blanksBeforeComment.MatchString(text):
		return s.fail(n, "%files", "Apptainer ignores the section, because more than one blank and a comment follow its name", "write the comment on its own line")
	}
	return nil
}

// blanksBeforeComment matches the arguments of a %files section that Apptainer takes for a stage's
// and then does not find one in.
var blanksBeforeComment = regexp.MustCompile(`^\S+ \s+#`)

// unknownSection decides, in the default dialect, whether a line that begins with '%' can be text.
// A line that looks like a misspelt section cannot: as text it would be lost without a trace below
// %help, and fail at the end of a script.
func (s *scanner) unknownSection(n int, name, args string) error {
	switch {
	case s.current == nil:
		return s.fail(n, "", unknown(name, args), sectionFix(name, args))
	case s.current.name == "" || slices.Contains(listSections, s.current.name):
		return s.fail(n, s.current.section(), unknown(name, args), sectionFix(name, args))
	}
	if like := likelySection(name, args); like != "" {
		return s.fail(n, s.current.section(), unknown(name, args), fmt.Sprintf("did you mean %%%s? (put text that begins with %% into a here-document)", like))
	}
	s.warn(n, s.current.section(), fmt.Sprintf("%%%s is not a section and is treated as text, which Apptainer refuses", name), "")
	return nil
}

// unknown describes a line that begins with '%' and with no section.
func unknown(name, args string) string {
	if word, _, _ := strings.Cut(args, " "); name == "" && word != "" {
		return fmt.Sprintf("a blank follows %%, so %q does not name a section", "% "+word)
	}
	return fmt.Sprintf("unknown section %s", visible("%"+name))
}

func sectionFix(name, args string) string {
	if name == "end" {
		return "remove it: a section ends where the next one begins"
	}
	if like := likelySection(name, args); like != "" {
		return fmt.Sprintf("did you mean %%%s?", like)
	}
	return "use one of %" + strings.Join(sectionNames, " %")
}

// likelySection returns the section that the author of an unknown one probably meant, or "":
// a name after "% ", a name with something added ("labels:", "post_2"), the beginning of a name
// ("env"), or a name with a mistake in it. Singularity 2 compared only the beginning, so that it
// took "environments".
func likelySection(name, args string) string {
	if name == "" {
		if word, _, _ := strings.Cut(strings.ToLower(args), " "); slices.Contains(sectionNames, strings.TrimRight(word, ":")) {
			return strings.TrimRight(word, ":")
		}
		return ""
	}
	for _, s := range sectionNames {
		if rest, ok := strings.CutPrefix(name, s); ok && strings.IndexFunc(rest, unicode.IsLetter) != 0 {
			return s
		}
	}
	for _, s := range sectionNames {
		if len(name) >= 3 && name != "app" && strings.HasPrefix(s, name) {
			return s
		}
	}
	return nearest.Name(name, sectionNames)
}

// refuseHidden refuses a section or a stage whose line begins with a character that no editor
// shows, such as a no-break space or a byte order mark. The line would be text.
func (s *scanner) refuseHidden(n int, text string) error {
	rest := strings.TrimLeftFunc(text, isInvisible)
	begin := text[:len(text)-len(rest)]
	if strings.Trim(begin, " \t") == "" {
		return nil
	}
	name, _, percent := sectionLine(rest)
	if !isBootstrap(rest) && !(percent && slices.Contains(sectionNames, name)) {
		return nil
	}
	bad := strings.TrimLeft(begin, " \t")
	word, _, _ := strings.Cut(rest, " ")
	section := ""
	if s.current != nil {
		section = s.current.section()
	}
	return s.fail(n, section, fmt.Sprintf("the invisible character %U is before %s, so the line does not begin anything", []rune(bad)[0], visible(word)), "remove that character")
}

// isInvisible reports whether a character takes no ink: blanks of every kind, and format
// characters.
func isInvisible(r rune) bool { return unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) }

// visible quotes a name that contains characters that cannot be seen.
func visible(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return isInvisible(r) || !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%+q", name)
	}
	return name
}

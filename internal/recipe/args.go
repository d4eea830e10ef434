package recipe

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"netroot/internal/nearest"
)

// ParseArgs parses a file of build arguments: KEY=VALUE lines, blank lines and comments. It skips
// other lines with a Warning. If a key occurs several times, the last value counts. The error is an
// *Error: the file is not a text file.
func ParseArgs(name string, src []byte) (map[string]string, []Warning, error) {
	p := &parser{name: name}
	lines, err := p.lines(src)
	if err != nil {
		return nil, nil, err
	}
	args := make(map[string]string)
	for _, pair := range p.assignments(&block{first: 1, body: lines}) {
		args[pair.Key] = pair.Value
	}
	return args, p.warnings, nil
}

// argRef matches the use of a build argument.
var argRef = regexp.MustCompile(`{{\s*(\w+)\s*}}`)

// commentBefore matches text before a use that makes the use a comment, which is left unchanged.
// "#!" is not a comment, so that an interpreter can be an argument. As in Apptainer, no blank is
// required before the '#': "sed 's/a/#b {{ item }}/'" stays as it is.
var commentBefore = regexp.MustCompile(`#[^!]`)

// substitution replaces build arguments in the lines of one stage.
type substitution struct {
	*parser
	values map[string]string
	used   map[string]bool // shared by all stages
}

// substitute returns the lines with build arguments replaced: by the given values, and otherwise by
// the %arguments of each stage.
func (p *parser) substitute(lines []string, stages []*rawStage, given map[string]string) ([]string, error) {
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if strings.ContainsAny(given[name], "\r\n\x00") {
			return nil, p.fail(0, "", fmt.Sprintf("the value of build argument %s is not one line of text", name), "pass the name of a file instead")
		}
	}
	out := slices.Clone(lines)
	used := make(map[string]bool)
	for i, st := range stages {
		s := substitution{parser: p, values: make(map[string]string), used: used}
		for _, b := range st.sections {
			if b.name == "arguments" {
				for _, pair := range (&parser{}).assignments(b) {
					s.values[pair.Key] = pair.Value
				}
			}
		}
		maps.Copy(s.values, given)
		end := len(lines)
		if i+1 < len(stages) {
			end = stages[i+1].line - 1
		}
		for n := st.line; n <= end; n++ {
			var err error
			if out[n-1], err = s.expand(n, st, lines[n-1]); err != nil {
				return nil, err
			}
		}
	}
	return out, p.checkUnused(given, used)
}

func (p *parser) checkUnused(given map[string]string, used map[string]bool) error {
	var unused []string
	for name := range given {
		if !used[name] {
			unused = append(unused, name)
		}
	}
	if len(unused) == 0 {
		return nil
	}
	slices.Sort(unused)
	fix := "the recipe has no build arguments"
	if len(used) > 0 {
		fix = "the recipe uses " + strings.Join(slices.Sorted(maps.Keys(used)), ", ")
	}
	return p.fail(0, "", "unused build arguments: "+strings.Join(unused, ", "), fix)
}

// liveReferences returns the uses of build arguments in a line, as indexes of argRef. commented
// reports that the line also has uses in a comment.
func (s *substitution) liveReferences(text string) (refs [][]int, commented bool) {
	for _, m := range argRef.FindAllStringSubmatchIndex(text, -1) {
		if commentBefore.MatchString(text[:m[0]]) {
			commented = true
			break // a comment reaches to the end of the line
		}
		refs = append(refs, m)
	}
	return refs, commented
}

func (s *substitution) expand(n int, st *rawStage, text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	refs, commented := s.liveReferences(text)
	if commented && !isIdle(text) {
		s.warn(n, st.sectionAt(n), "a build argument after a # is not replaced", "")
	}
	var out strings.Builder
	at := 0
	for _, m := range refs {
		value, err := s.value(n, st, text[m[2]:m[3]])
		if err != nil {
			return "", err
		}
		out.WriteString(text[at:m[0]] + value)
		at = m[1]
	}
	out.WriteString(text[at:])
	if left, _ := s.liveReferences(out.String()); len(left) > 0 {
		return "", s.fail(n, st.sectionAt(n), fmt.Sprintf("%s remains after build arguments were replaced", out.String()[left[0][0]:left[0][1]]), "the value of an argument can use another argument, but not through a third one")
	}
	return out.String(), nil
}

// value returns the value of a build argument. It replaces the build arguments in that value once.
func (s *substitution) value(n int, st *rawStage, name string) (string, error) {
	value, err := s.lookup(n, st, name)
	if err != nil {
		return "", err
	}
	value = argRef.ReplaceAllStringFunc(value, func(ref string) string {
		inner, e := s.lookup(n, st, argRef.FindStringSubmatch(ref)[1])
		if e != nil {
			err = e
		}
		return inner
	})
	return value, err
}

func (s *substitution) lookup(n int, st *rawStage, name string) (string, error) {
	value, ok := s.values[name]
	if !ok {
		fix := fmt.Sprintf("use --build-arg %s=VALUE, or add a line %s=VALUE to %%arguments of this stage", name, name)
		if like := nearest.Name(name, slices.Sorted(maps.Keys(s.values))); like != "" {
			fix = fmt.Sprintf("did you mean %s?", like)
		}
		return "", s.fail(n, st.sectionAt(n), fmt.Sprintf("build argument %s is not defined", name), fix)
	}
	s.used[name] = true
	return value, nil
}

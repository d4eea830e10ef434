package recipe

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"netroot/internal/nearest"
)

// Names of sections. App sections have "app" and the app's name as first
// argument besides.
var (
	scriptSections = []string{"pre", "setup", "post", "environment", "runscript", "startscript", "test",
		"appinstall", "appenv", "apprun", "appstart", "apptest"}
	textSections = []string{"help", "apphelp"}
	listSections = []string{"files", "labels", "arguments", "appfiles", "applabels"}
	sectionNames = slices.Concat(scriptSections, textSections, listSections)
)

// maxStrictSection is bufio.MaxScanTokenSize, at which Apptainer gives up.
const maxStrictSection = 64 << 10

// block is a run of lines: a header, or a section without its first line.
type block struct {
	name  string // "" for a header
	args  string
	line  int // of the line with the name; of the first line of a header
	first int // line number of body[0]
	body  []string
}

// section returns the block's name as errors show it.
func (b *block) section() string {
	if b.name == "" {
		return headerSection
	}
	return "%" + b.name
}

// text joins the lines, less blank ones at the end.
func (b *block) text() string {
	end := len(b.body)
	for end > 0 && strings.TrimSpace(b.body[end-1]) == "" {
		end--
	}
	if end == 0 {
		return ""
	}
	return strings.Join(b.body[:end], "\n") + "\n"
}

// rawStage is a stage split into blocks, nothing of which is interpreted.
type rawStage struct {
	line     int
	header   *block
	sections []*block
}

// sectionAt names the section that holds a line of the stage.
func (s *rawStage) sectionAt(line int) string {
	name := headerSection
	for _, b := range s.sections {
		if b.line <= line {
			name = b.section()
		}
	}
	return name
}

// lines splits a text. Carriage returns at line ends go, and a byte order mark.
func (p *parser) lines(src []byte) ([]string, error) {
	if i := bytes.IndexByte(src, 0); i >= 0 {
		return nil, p.fail(1+bytes.Count(src[:i], []byte("\n")), "", "not a text file: it holds a zero byte", "give a definition file")
	}
	text, marked := strings.CutPrefix(string(src), "\ufeff")
	if marked && p.strict {
		return nil, p.fail(1, headerSection, "the file begins with a byte order mark, which Apptainer takes for part of the first key", "save it as plain UTF-8")
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], "\r")
	}
	return lines, nil
}

// scanner splits lines into stages and sections.
type scanner struct {
	*parser
	stages  []*rawStage
	stage   *rawStage // the last one, nil before the first
	current *block    // where lines go, nil between %end and the next section
	docs    heredocs
	strayed bool // a warning about lines after %end has been given
}

func (p *parser) scan(lines []string) ([]*rawStage, error) {
	s := &scanner{parser: p}
	if !p.strict {
		s.docs.index(lines)
	}
	for i, text := range lines {
		if err := s.line(i+1, text); err != nil {
			return nil, err
		}
	}
	if len(s.stages) == 0 {
		return nil, p.fail(0, "", "no stage in this file, only blank lines and comments", `begin with a line such as "Bootstrap: debootstrap"`)
	}
	return s.stages, nil
}

// line takes one line to where it belongs.
func (s *scanner) line(n int, text string) error {
	name, args, percent := sectionLine(text)
	if s.docs.inside(n, text) {
		s.warnHidden(n, name, text)
		s.current.body = append(s.current.body, text)
		return nil
	}
	switch {
	case isBootstrap(text):
		return s.beginStage(n, text)
	case percent && s.strict:
		if err := s.checkStrict(n, text, name); err != nil {
			return err
		}
		s.beginSection(n, name, args)
		return nil
	case percent && slices.Contains(sectionNames, name):
		s.beginSection(n, name, args)
		return nil
	case percent && name == "end" && s.stage != nil:
		s.current, s.strayed = nil, false
		return nil
	case percent:
		if err := s.unknownSection(n, name); err != nil {
			return err
		}
	}
	s.add(n, text)
	return nil
}

// sectionLine takes a line apart whose first word begins with '%'.
func sectionLine(text string) (name, args string, ok bool) {
	text = strings.TrimLeft(text, " \t")
	if !strings.HasPrefix(text, "%") {
		return "", "", false
	}
	name = strings.TrimLeft(text, "%")
	if i := strings.IndexAny(name, " \t"); i >= 0 {
		name, args = name[:i], strings.TrimSpace(name[i:])
	}
	return strings.ToLower(name), args, true
}

func isBootstrap(text string) bool {
	key, _, ok := strings.Cut(text, ":")
	return ok && strings.EqualFold(key, "bootstrap")
}

func (s *scanner) beginStage(n int, text string) error {
	if s.stage != nil && len(s.stage.sections) == 0 && !s.stage.hasBootstrap() {
		if s.strict {
			return s.fail(s.stage.line, headerSection, fmt.Sprintf("keys stand above the Bootstrap line (line %d), which begins a stage", n), "move Bootstrap to the top")
		}
		s.add(n, text)
		return nil
	}
	s.stage = &rawStage{line: n, header: &block{line: n, first: n, body: []string{text}}}
	s.stages = append(s.stages, s.stage)
	s.current = s.stage.header
	return nil
}

// hasBootstrap finds the key where it does not begin a stage: indented, or with
// a blank before the colon.
func (s *rawStage) hasBootstrap() bool {
	return slices.ContainsFunc(s.header.body, func(text string) bool {
		key, _, ok := strings.Cut(text, ":")
		return ok && strings.EqualFold(strings.TrimSpace(key), "bootstrap")
	})
}

func (s *scanner) beginSection(n int, name, args string) {
	if s.stage == nil { // without a header: refused later, when there is a section to name
		s.stage = &rawStage{line: n, header: &block{line: n, first: n}}
		s.stages = append(s.stages, s.stage)
	}
	s.current = &block{name: name, args: args, line: n, first: n + 1}
	s.stage.sections = append(s.stage.sections, s.current)
}

// checkStrict refuses what Apptainer would not take for the beginning of a
// section, or would take for that of an unknown one.
func (s *scanner) checkStrict(n int, text, name string) error {
	word, _, _ := strings.Cut(text, " ")
	switch {
	case text[0] != '%':
		return s.fail(n, "", "a word that begins with % is indented, and Apptainer takes it for a section without a name", "write sections in column 1, and keep lines of scripts from beginning with %")
	case strings.Contains(word, "\t"):
		return s.fail(n, "", fmt.Sprintf("a TAB follows %%%s, and Apptainer takes it for a part of the name", name), "write a blank")
	case !slices.Contains(sectionNames, name):
		return s.fail(n, "", fmt.Sprintf("unknown section %%%s", name), sectionFix(name))
	case strings.HasPrefix(name, "app") && strings.TrimLeft(word, "%") != name:
		return s.fail(n, "", fmt.Sprintf("Apptainer wants app sections in lower case, not %s", word), "write %"+name)
	}
	return nil
}

// unknownSection decides, outside strict mode, whether a line that begins with
// '%' can be text.
func (s *scanner) unknownSection(n int, name string) error {
	msg := fmt.Sprintf("unknown section %%%s", name)
	if s.current == nil {
		return s.fail(n, "", msg, sectionFix(name))
	}
	if s.current.name == "" || slices.Contains(listSections, s.current.name) {
		return s.fail(n, s.current.section(), msg, sectionFix(name))
	}
	fix := ""
	if like := nearest.Name(name, sectionNames); like != "" {
		fix = fmt.Sprintf("did you mean %%%s?", like)
	}
	s.warn(n, s.current.section(), fmt.Sprintf("%%%s is no section and is taken as text, which Apptainer refuses", name), fix)
	return nil
}

func sectionFix(name string) string {
	if name == "end" {
		return "leave it out: a section ends where the next one begins"
	}
	if like := nearest.Name(name, sectionNames); like != "" {
		return fmt.Sprintf("did you mean %%%s?", like)
	}
	return "the sections are %" + strings.Join(sectionNames, " %")
}

// warnHidden tells of a line in a here-document that Apptainer would act on.
func (s *scanner) warnHidden(n int, name, text string) {
	what := ""
	switch {
	case isBootstrap(text):
		what = "a stage"
	case slices.Contains(sectionNames, name):
		what = "section %" + name
	default:
		return
	}
	s.warn(n, s.current.section(), fmt.Sprintf("text of the here-document begun in line %d; Apptainer would begin %s here", s.docs.begun, what), "")
}

// add appends an ordinary line to the current block.
func (s *scanner) add(n int, text string) {
	idle := isIdle(text)
	if s.stage == nil {
		if idle {
			return
		}
		s.stage = &rawStage{line: n, header: &block{line: n, first: n}}
		s.stages = append(s.stages, s.stage)
		s.current = s.stage.header
	}
	if s.current == nil {
		if !idle && !s.strayed {
			s.strayed = true
			s.warn(n, "", "text after %end belongs to no section and is left out", "move it above %end")
		}
		return
	}
	s.current.body = append(s.current.body, text)
	if !s.strict && slices.Contains(scriptSections, s.current.name) {
		s.docs.open(n, text)
	}
}

// isIdle reports whether a line is blank or a comment.
func isIdle(text string) bool {
	text = strings.TrimSpace(text)
	return text == "" || text[0] == '#'
}

package recipe

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// These are the names of sections. The names of app sections begin with "app"; their first argument
// is the name of the app.
var (
	scriptSections = []string{"pre", "setup", "post", "environment", "runscript", "startscript", "test",
		"appinstall", "appenv", "apprun", "appstart", "apptest"}
	textSections = []string{"help", "apphelp"}
	listSections = []string{"files", "labels", "arguments", "appfiles", "applabels"}
	sectionNames = slices.Concat(scriptSections, textSections, listSections)
)

// maxStrictSection is bufio.MaxScanTokenSize, the size at which Apptainer fails.
const maxStrictSection = 64 << 10

// block is a run of lines: a header, or a section without its first line.
type block struct {
	name  string // "" for a header
	args  string
	line  int // line with the name; for a header its first line
	first int // line number of body[0]
	body  []string
}

// section returns the name of the block for errors.
func (b *block) section() string {
	if b.name == "" {
		return headerSection
	}
	return "%" + b.name
}

// text joins the lines, without blank lines at the end.
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

// rawStage is a stage split into blocks that are not interpreted yet.
type rawStage struct {
	line     int
	header   *block
	sections []*block
}

// sectionAt returns the name of the section that contains a line of the stage.
func (s *rawStage) sectionAt(line int) string {
	name := headerSection
	for _, b := range s.sections {
		if b.line <= line {
			name = b.section()
		}
	}
	return name
}

// lines splits a text into lines. It removes carriage returns at line ends and a byte order mark.
func (p *parser) lines(src []byte) ([]string, error) {
	if i := bytes.IndexByte(src, 0); i >= 0 {
		return nil, p.fail(1+bytes.Count(src[:i], []byte("\n")), "", "not a text file: it contains a zero byte", "use a definition file")
	}
	text, marked := strings.CutPrefix(string(src), "\ufeff")
	if marked && p.strict {
		return nil, p.fail(1, headerSection, "the file begins with a byte order mark, which Apptainer treats as part of the first key", "save it as plain UTF-8")
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
	stage   *rawStage // current stage; nil before the first
	current *block    // block that receives lines; nil between %end and the next section
	docs    heredocs
	strayed bool // the warning about lines after %end was given
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
		return nil, p.fail(0, "", "the file has no stage, only blank lines and comments", `begin with a line such as "Bootstrap: debootstrap"`)
	}
	return s.stages, nil
}

// line processes one line.
func (s *scanner) line(n int, text string) error {
	name, args, percent := sectionLine(text)
	if s.docs.inside(n, text) {
		s.warnHidden(n, name, text)
		s.current.body = append(s.current.body, text)
		return nil
	}
	if err := s.refuseHidden(n, text); err != nil {
		return err
	}
	switch {
	case isBootstrap(text):
		return s.beginStage(n, text)
	case percent && s.strict:
		if err := s.checkStrict(n, text, name, args); err != nil {
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
		if err := s.unknownSection(n, name, args); err != nil {
			return err
		}
	}
	s.add(n, text)
	return nil
}

// sectionLine parses a line whose first word begins with '%'.
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
			return s.fail(s.stage.line, headerSection, fmt.Sprintf("there are keys before the Bootstrap line (line %d), which begins a stage", n), "move Bootstrap to the top")
		}
		s.add(n, text)
		return nil
	}
	s.stage = &rawStage{line: n, header: &block{line: n, first: n, body: []string{text}}}
	s.stages = append(s.stages, s.stage)
	s.current = s.stage.header
	return nil
}

// hasBootstrap reports whether the stage has the key in a form that does not begin a stage:
// indented, or with a blank before the colon.
func (s *rawStage) hasBootstrap() bool {
	return slices.ContainsFunc(s.header.body, func(text string) bool {
		key, _, ok := strings.Cut(text, ":")
		return ok && strings.EqualFold(strings.TrimSpace(key), "bootstrap")
	})
}

func (s *scanner) beginSection(n int, name, args string) {
	// A stage without a header is refused later, when there is a section to name.
	if s.stage == nil {
		s.stage = &rawStage{line: n, header: &block{line: n, first: n}}
		s.stages = append(s.stages, s.stage)
	}
	s.current = &block{name: name, args: args, line: n, first: n + 1}
	s.stage.sections = append(s.stage.sections, s.current)
}

// warnHidden warns about a line in a here-document that Apptainer would act on.
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
	s.warn(n, s.current.section(), fmt.Sprintf("text of the here-document that begins in line %d; Apptainer would begin %s here", s.docs.begun, what), "")
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
			s.warn(n, "", "text after %end is not part of a section and is ignored", "move it above %end")
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

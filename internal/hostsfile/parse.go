package hostsfile

import (
	"fmt"
	"strings"
)

// statement is an assignment, a case, or something that is refused when a label comes to it.
type statement struct {
	line   int
	name   string // of the variable that value is assigned to
	value  word   // or what a case looks at
	arms   []arm  // of a case
	isCase bool
	refuse string // why, for what is neither
}

// arm is one arm of a case.
type arm struct {
	line     int
	patterns []word
	comments []string // above and beside the pattern, and in the arm
	body     []statement
}

// word is the parts of one word of the shell.
type word []part

// part is text, a variable's name, or something that is refused.
type part struct {
	text     string
	variable bool
	quoted   bool // not a pattern's own character
	refuse   string
	line     int
}

// parser goes through the text once.
type parser struct {
	src      string
	pos      int
	line     int
	comments []string // seen and not yet anyone's
	body     []statement
}

func (p *parser) parse() *Error {
	body, err := p.statements(0)
	if err != nil {
		return err
	}
	if p.pos < len(p.src) {
		if p.at(";;") {
			return p.errorf(";; ends an arm and there is no case around it")
		}
		return p.errorf("esac and there is no case before it")
	}
	p.body = body
	return nil
}

func (p *parser) errorf(format string, args ...any) *Error {
	return &Error{Line: p.line, Msg: fmt.Sprintf(format, args...)}
}

func (p *parser) at(s string) bool { return strings.HasPrefix(p.src[p.pos:], s) }

// atWord is whether the word s, and no longer one, is next.
func (p *parser) atWord(s string) bool {
	if !p.at(s) {
		return false
	}
	rest := p.src[p.pos+len(s):]
	return rest == "" || strings.IndexByte(" \t\n;)", rest[0]) >= 0
}

func (p *parser) advance(n int) {
	p.line += strings.Count(p.src[p.pos:p.pos+n], "\n")
	p.pos += n
}

// skip passes over blanks, and with lines over ends of lines and comments, which it keeps.
func (p *parser) skip(lines bool) {
	for p.pos < len(p.src) {
		switch c := p.src[p.pos]; {
		case c == ' ' || c == '\t' || lines && c == '\n':
			p.advance(1)
		case p.at("\\\n"):
			p.advance(2)
		case c == '#' && lines:
			p.comment()
		default:
			return
		}
	}
}

func (p *parser) comment() {
	end := strings.IndexByte(p.src[p.pos:], '\n')
	if end < 0 {
		end = len(p.src) - p.pos
	}
	if text := strings.TrimSpace(strings.TrimLeft(p.src[p.pos:p.pos+end], "#")); text != "" {
		p.comments = append(p.comments, text)
	}
	p.advance(end)
}

// takeComments are the comments since the last call.
func (p *parser) takeComments() []string {
	c := p.comments
	p.comments = nil
	return c
}

// statements reads until ";;", esac or the end.
func (p *parser) statements(depth int) ([]statement, *Error) {
	var body []statement
	for {
		p.skip(true)
		switch {
		case p.pos == len(p.src) || p.at(";;") || p.atWord("esac"):
			return body, nil
		case p.at(";"):
			p.advance(1)
			continue
		case p.atWord("export"):
			p.advance(len("export"))
			continue
		}
		s, err := p.statement(depth)
		if err != nil {
			return nil, err
		}
		body = append(body, s)
	}
}

func (p *parser) statement(depth int) (statement, *Error) {
	if p.atWord("case") {
		return p.caseOf(depth)
	}
	s := statement{line: p.line}
	n := nameLength(p.src[p.pos:])
	if n == 0 || !strings.HasPrefix(p.src[p.pos+n:], "=") {
		err := p.command(&s)
		return s, err
	}
	s.name = p.src[p.pos : p.pos+n]
	p.advance(n + 1)
	if p.at("(") {
		return s, p.errorf("%s=( makes an array, which means nothing here: write one value", s.name)
	}
	var err *Error
	if s.value, err = p.word(); err != nil {
		return s, err
	}
	if p.pos < len(p.src) && strings.IndexByte("&|<>()", p.src[p.pos]) >= 0 {
		return s, p.errorf("%q after the value of %s: put the value into quotes", p.src[p.pos], s.name)
	}
	return s, nil
}

// command passes over a command, which is refused if a label comes to it.
func (p *parser) command(s *statement) *Error {
	start := p.pos
	for p.pos < len(p.src) && p.src[p.pos] != '\n' && p.src[p.pos] != ';' {
		before := p.pos
		if p.at("<<") {
			return p.errorf("a here-document (<<) is not understood")
		}
		if _, err := p.word(); err != nil {
			return err
		}
		if p.pos == before { // an operator or a blank
			p.advance(1)
		}
	}
	text := p.src[start:p.pos]
	name, _, _ := strings.Cut(strings.TrimSpace(strings.SplitN(text, "\n", 2)[0]), " ")
	s.refuse = fmt.Sprintf("%q is a command, and none is run: only assignments and case are read", name)
	return nil
}

// caseOf reads from case to esac.
func (p *parser) caseOf(depth int) (statement, *Error) {
	s := statement{line: p.line, isCase: true}
	if depth == maxDepth {
		return s, p.errorf("there are more than %d cases inside each other", maxDepth)
	}
	p.advance(len("case"))
	p.skip(true)
	var err *Error
	if s.value, err = p.word(); err != nil {
		return s, err
	}
	p.skip(true)
	if !p.atWord("in") {
		return s, p.errorf("want \"case WORD in\"")
	}
	p.advance(len("in"))
	p.comments = nil // what came before the case is about all labels
	for {
		p.skip(true)
		switch {
		case p.pos == len(p.src):
			return s, &Error{Line: s.line, Msg: "this case has no esac"}
		case p.atWord("esac"):
			p.advance(len("esac"))
			return s, nil
		}
		a, err := p.arm(depth)
		if err != nil {
			return s, err
		}
		s.arms = append(s.arms, a)
	}
}

// arm reads "PATTERN | PATTERN ) statements ;;". Without ";;" the arm is the last.
func (p *parser) arm(depth int) (arm, *Error) {
	a := arm{line: p.line, comments: p.takeComments()}
	if p.at("(") {
		p.advance(1)
	}
	for {
		p.skip(false)
		w, err := p.word()
		if err != nil {
			return a, err
		}
		p.skip(false)
		if len(w) == 0 || !p.at("|") && !p.at(")") {
			return a, p.errorf("want a pattern and \")\" after it: PATTERN) or ONE|OTHER)")
		}
		a.patterns = append(a.patterns, w)
		end := p.at(")")
		p.advance(1)
		if end {
			break
		}
	}
	body, err := p.statements(depth + 1)
	if err != nil {
		return a, err
	}
	a.body = body
	if p.at(";;") {
		p.advance(2)
		p.skip(false)
		if p.at("#") { // beside the end of the arm
			p.comment()
		}
	}
	a.comments = append(a.comments, p.takeComments()...)
	return a, nil
}

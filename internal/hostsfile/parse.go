package hostsfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// statement is an assignment, a case, or something that is refused when a label comes to it.
type statement struct {
	line   int
	name   string // of the variable that value is assigned to
	value  word   // or what a case looks at
	arms   []arm  // of a case
	isCase bool
	refuse string // the reason, for what is neither
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
	quoted   bool // its characters stand for themselves in a pattern
	refuse   string
	line     int
}

// reader turns a shell's syntax tree into what is understood of it. Nothing of it is executed.
type reader struct {
	src      string
	comments []syntax.Comment // met and not yet an arm's
	claimed  map[uint]bool    // those that are, by offset
}

// parse reads the text as a shell does: an error is one that a shell would report.
func parse(src []byte) ([]statement, *Error) {
	// Comments in another encoding than UTF-8 are common. What stands for such bytes is refused in
	// values.
	r := &reader{src: string(bytes.ToValidUTF8(src, []byte("\uFFFD"))), claimed: map[uint]bool{}}
	f, err := syntax.NewParser(syntax.KeepComments(true), syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(r.src), "")
	if err != nil {
		return nil, syntaxError(err)
	}
	return r.statements(f.Stmts, 0)
}

// syntaxError is the parser's error as one of this package.
func syntaxError(err error) *Error {
	var parse syntax.ParseError
	var lang syntax.LangError
	switch {
	case errors.As(err, &parse):
		return &Error{Line: int(parse.Pos.Line()), Msg: parse.Text}
	case errors.As(err, &lang):
		return &Error{Line: int(lang.Pos.Line()), Msg: lang.Feature + " cannot be read here"}
	}
	return &Error{Line: 1, Msg: err.Error()}
}

func (r *reader) statements(list []*syntax.Stmt, depth int) ([]statement, *Error) {
	var body []statement
	for _, s := range list {
		r.comments = append(r.comments, s.Comments...)
		switch cmd := s.Cmd.(type) {
		case *syntax.CaseClause:
			if !plain(s) {
				break
			}
			c, err := r.caseOf(cmd, depth)
			if err != nil {
				return nil, err
			}
			body = append(body, c)
			continue
		case *syntax.CallExpr:
			if !plain(s) || len(cmd.Args) > 0 {
				break
			}
			body = append(body, r.assignments(cmd.Assigns)...)
			continue
		case *syntax.DeclClause: // export
			if !plain(s) || cmd.Variant.Value != "export" || slices.ContainsFunc(cmd.Args, func(a *syntax.Assign) bool { return a.Name == nil }) {
				break
			}
			body = append(body, r.assignments(cmd.Args)...)
			continue
		}
		body = append(body, r.refused(s))
	}
	return body, nil
}

// plain reports a statement without redirection, "!" and "&".
func plain(s *syntax.Stmt) bool {
	return len(s.Redirs) == 0 && !s.Negated && !s.Background && !s.Coprocess && !s.Disown
}

// refused is a statement that is an error when a label comes to it.
func (r *reader) refused(s *syntax.Stmt) statement {
	at := s.Pos()
	if call, ok := s.Cmd.(*syntax.CallExpr); ok && len(call.Args) > 0 {
		at = call.Args[0].Pos() // A=1 command
	}
	text := r.text(at, s.End())
	name, _, _ := strings.Cut(text, " ")
	refused := statement{line: int(at.Line())}
	if n := nameLength(name); n > 0 && strings.HasPrefix(name[n:], "=") {
		refused.refuse = fmt.Sprintf("%q is more than an assignment: put the value of %s into quotes, and write one assignment a line", text, name[:n])
	} else {
		refused.refuse = fmt.Sprintf("%q is a command, and none is run: only assignments and case are read", strings.TrimRight(name, ";"))
	}
	return refused
}

// text is the first line of the source between two positions.
func (r *reader) text(from, to syntax.Pos) string {
	end := min(int(to.Offset()), len(r.src))
	line, _, _ := strings.Cut(r.src[min(int(from.Offset()), end):end], "\n")
	return line
}

func (r *reader) assignments(list []*syntax.Assign) []statement {
	var body []statement
	for _, a := range list {
		s := statement{line: int(a.Pos().Line()), name: a.Name.Value}
		switch {
		case a.Array != nil:
			s.refuse = s.name + "=( makes an array, and none is read: write one value"
		case a.Index != nil:
			s.refuse = s.name + "[ is part of an array, and none is read: write one value"
		case a.Append:
			s.refuse = fmt.Sprintf("%s+= is not understood: write %[1]s=$%[1]s and what comes after it", s.name)
		case a.Naked: // export NAME
			continue
		case a.Value != nil:
			s.value = r.word(a.Value)
		}
		body = append(body, s)
	}
	return body
}

func (r *reader) caseOf(c *syntax.CaseClause, depth int) (statement, *Error) {
	s := statement{line: int(c.Case.Line()), isCase: true, value: r.word(c.Word)}
	if depth == maxDepth {
		return s, &Error{Line: s.line, Msg: fmt.Sprintf("there are more than %d cases inside each other", maxDepth)}
	}
	if depth == 0 {
		r.comments = nil // what stands before the case is about all labels
	}
	from := c.In.Offset()
	if len(c.Items) > 0 && c.Items[0].Pos().Line() > c.In.Line() {
		from = r.lineEnd(c.In) // a comment beside "in" is about all arms
	}
	for i, item := range c.Items {
		a := arm{line: int(item.Pos().Line())}
		for _, p := range item.Patterns {
			a.patterns = append(a.patterns, r.word(p))
		}
		if item.OpPos.IsValid() && item.Op != syntax.Break {
			return s, &Error{Line: int(item.OpPos.Line()), Msg: fmt.Sprintf("%q goes on with the next arm, which is not understood: end the arm with \";;\"", item.Op)}
		}
		r.comments = append(r.comments, item.Comments...)
		var err *Error
		if a.body, err = r.statements(item.Stmts, depth+1); err != nil {
			return s, err
		}
		// A comment beside the end of this arm may be read as one above the next arm, or after the
		// last.
		r.comments = append(r.comments, item.Last...)
		next := c.Last
		if i+1 < len(c.Items) {
			next = c.Items[i+1].Comments
		}
		r.comments = append(r.comments, next...)
		to := r.armEnd(c, i)
		a.comments = r.claim(from, to)
		from = to
		s.arms = append(s.arms, a)
	}
	return s, nil
}

// armEnd is the offset where an arm's comments end: with the line of its ";;", or there when the
// next arm follows on the same line.
func (r *reader) armEnd(c *syntax.CaseClause, i int) uint {
	end := c.Items[i].OpPos
	if !end.IsValid() {
		return c.Esac.Offset()
	}
	if i+1 < len(c.Items) && c.Items[i+1].Pos().Line() == end.Line() {
		return end.Offset()
	}
	return min(r.lineEnd(end), c.Esac.Offset())
}

// lineEnd is the offset of the end of a position's line.
func (r *reader) lineEnd(p syntax.Pos) uint {
	at := min(p.Offset(), uint(len(r.src)))
	if n := strings.IndexByte(r.src[at:], '\n'); n >= 0 {
		return at + uint(n)
	}
	return uint(len(r.src))
}

// claim takes the comments between two offsets that no other arm has.
func (r *reader) claim(from, to uint) []string {
	var mine, others []syntax.Comment
	for _, c := range r.comments {
		if at := c.Hash.Offset(); at >= from && at < to {
			mine = append(mine, c)
		} else {
			others = append(others, c)
		}
	}
	r.comments = others
	slices.SortFunc(mine, func(a, b syntax.Comment) int { return cmp.Compare(a.Hash.Offset(), b.Hash.Offset()) })
	var texts []string
	for _, c := range mine {
		if text := strings.TrimSpace(strings.TrimLeft(c.Text, "#")); text != "" && !r.claimed[c.Hash.Offset()] {
			texts = append(texts, text)
		}
		r.claimed[c.Hash.Offset()] = true
	}
	return texts
}

func (r *reader) word(w *syntax.Word) word {
	var out word
	for i, p := range w.Parts {
		out = append(out, r.part(p, i == 0)...)
	}
	return out
}

func (r *reader) part(p syntax.WordPart, first bool) word {
	line := int(p.Pos().Line())
	refuse := func(why string) word {
		return word{{refuse: r.text(p.Pos(), p.End()) + " " + why, line: line}}
	}
	switch p := p.(type) {
	case *syntax.Lit:
		if first && strings.HasPrefix(p.Value, "~") {
			return word{{refuse: "~ is a user's home directory: write its path", line: line}}
		}
		return unquoted(p.Value, line)
	case *syntax.SglQuoted:
		if p.Dollar {
			return word{{refuse: "$ before a quote is not understood: leave it out", line: line}}
		}
		return word{{text: p.Value, quoted: true, line: line}}
	case *syntax.DblQuoted:
		if p.Dollar {
			return word{{refuse: "$ before a quote is not understood: leave it out", line: line}}
		}
		out := word{{quoted: true, line: line}} // "" is a word, too
		for _, inner := range p.Parts {
			if lit, ok := inner.(*syntax.Lit); ok {
				out = append(out, part{text: doubleQuoted(lit.Value), quoted: true, line: int(lit.Pos().Line())})
				continue
			}
			for _, x := range r.part(inner, false) {
				x.quoted = true
				out = append(out, x)
			}
		}
		return out
	case *syntax.ParamExp:
		return r.parameter(p, line, refuse)
	case *syntax.CmdSubst:
		return refuse("is the output of a command, and none is run: write what it prints")
	case *syntax.ExtGlob:
		return refuse("is a pattern with a choice: write its names out, ONE|OTHER)")
	}
	return refuse("is not understood: write its value")
}

// parameter is $NAME or ${NAME}.
func (r *reader) parameter(p *syntax.ParamExp, line int, refuse func(string) word) word {
	text := r.text(p.Pos(), p.End())
	name := ""
	if p.Param != nil {
		name = p.Param.Value
	}
	switch {
	case text != "$"+name && text != "${"+name+"}":
		return refuse("is more than a variable's name: write its value")
	case name == "" || nameLength(name) < len(name):
		return refuse("is known only to a running shell: write its value")
	}
	return word{{text: name, variable: true, line: line}}
}

// unquoted takes the backslashes out of text outside of quotes.
func unquoted(s string, line int) word {
	var out word
	for s != "" {
		n := strings.IndexByte(s, '\\')
		if n < 0 {
			n = len(s)
		}
		if n > 0 {
			out = append(out, part{text: s[:n], line: line})
		}
		s = s[n:]
		switch {
		case s == "":
		case s == `\`:
			return append(out, part{refuse: `\ is the last character of the file`, line: line})
		case s[1] == '\n':
			s, line = s[2:], line+1
		default:
			out = append(out, part{text: s[1:2], quoted: true, line: line})
			s = s[2:]
		}
	}
	return out
}

// doubleQuoted takes the backslashes out of text in double quotes, where one is itself but for four
// characters and at the end of a line.
func doubleQuoted(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && strings.IndexByte("\"\\$`\n", s[i+1]) >= 0 {
			i++
			if s[i] == '\n' {
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// nameLength is the length of the variable's name that s begins with.
func nameLength(s string) int {
	for i := range len(s) {
		c := s[i]
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			return i
		}
	}
	return len(s)
}

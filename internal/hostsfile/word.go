package hostsfile

import (
	"fmt"
	"strings"
)

// word reads one word: up to a blank, an end of line or an operator, outside of quotes.
func (p *parser) word() (word, *Error) {
	var w word
	for p.pos < len(p.src) {
		c := p.src[p.pos]
		switch {
		case strings.IndexByte(" \t\n;&|<>()", c) >= 0:
			return w, nil
		case p.at("\\\n"):
			p.advance(2)
		case c == '\\':
			if p.pos+1 == len(p.src) {
				return nil, p.errorf("ends in a backslash")
			}
			w = append(w, part{text: p.src[p.pos+1 : p.pos+2], quoted: true, line: p.line})
			p.advance(2)
		case c == '\'':
			end := strings.IndexByte(p.src[p.pos+1:], '\'')
			if end < 0 {
				return nil, p.errorf("the quote ' is not closed")
			}
			w = append(w, part{text: p.src[p.pos+1 : p.pos+1+end], quoted: true, line: p.line})
			p.advance(end + 2)
		case c == '"':
			parts, err := p.doubleQuoted()
			if err != nil {
				return nil, err
			}
			w = append(w, parts...)
		case c == '$' || c == '`':
			x, err := p.expansion(false)
			if err != nil {
				return nil, err
			}
			w = append(w, x)
		case c == '~' && len(w) == 0:
			w = append(w, part{refuse: "~ is somebody's home directory: write its path", line: p.line})
			p.advance(1)
		default:
			n := strings.IndexAny(p.src[p.pos+1:], " \t\n;&|<>()\\'\"$`~")
			if n < 0 {
				n = len(p.src) - p.pos - 1
			}
			w = append(w, part{text: p.src[p.pos : p.pos+1+n], line: p.line})
			p.advance(n + 1)
		}
	}
	return w, nil
}

// doubleQuoted reads from one double quote to the other.
func (p *parser) doubleQuoted() (word, *Error) {
	line := p.line
	w := word{{quoted: true, line: line}} // "" is a word, too
	p.advance(1)
	for p.pos < len(p.src) {
		n := strings.IndexAny(p.src[p.pos:], "\"\\$`")
		if n < 0 {
			break
		}
		w = append(w, part{text: p.src[p.pos : p.pos+n], quoted: true, line: p.line})
		p.advance(n)
		switch p.src[p.pos] {
		case '"':
			p.advance(1)
			return w, nil
		case '\\':
			keep, skip := 2, 0 // a backslash is one, except before these
			if p.pos+1 < len(p.src) && strings.IndexByte("\"\\$`\n", p.src[p.pos+1]) >= 0 {
				keep, skip = 1, 1
			}
			if p.at("\\\n") {
				keep, skip = 0, 2
			}
			keep = min(keep, len(p.src)-p.pos)
			w = append(w, part{text: p.src[p.pos+skip : min(p.pos+skip+keep, len(p.src))], quoted: true, line: p.line})
			p.advance(min(skip+keep, len(p.src)-p.pos))
		default:
			x, err := p.expansion(true)
			if err != nil {
				return nil, err
			}
			w = append(w, x)
		}
	}
	return nil, &Error{Line: line, Msg: "the quote \" is not closed"}
}

// expansion reads what begins with $ or a backquote.
func (p *parser) expansion(quoted bool) (part, *Error) {
	x := part{line: p.line, quoted: quoted}
	rest := p.src[p.pos+1:]
	switch n := nameLength(rest); {
	case p.at("`"):
		end := strings.IndexByte(rest, '`')
		if end < 0 {
			return x, p.errorf("the backquote is not closed")
		}
		return p.refused(x, end+2, "is the output of a command, and none is run: write what it prints")
	case n > 0:
		x.text, x.variable = rest[:n], true
		p.advance(1 + n)
		return x, nil
	case strings.HasPrefix(rest, "{"):
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return x, p.errorf("${ is not closed")
		}
		if name := rest[1:end]; name != "" && nameLength(name) == len(name) {
			x.text, x.variable = name, true
			p.advance(2 + end)
			return x, nil
		}
		return p.refused(x, end+2, "is more than a variable's name: write its value")
	case strings.HasPrefix(rest, "("):
		end := closing(rest)
		if end < 0 {
			return x, p.errorf("$( is not closed")
		}
		return p.refused(x, end+2, "is the output of a command, and none is run: write what it prints")
	case rest != "" && strings.IndexByte("0123456789@*#?!-$", rest[0]) >= 0:
		return p.refused(x, 2, "is known to a running shell alone: write its value")
	case !quoted && rest != "" && strings.IndexByte("'\"", rest[0]) >= 0:
		return p.refused(x, 1, "before a quote is not understood: leave it out")
	}
	x.text = "$"
	p.advance(1)
	return x, nil
}

// refused makes x, of n bytes, something to stumble on when a label comes to it.
func (p *parser) refused(x part, n int, why string) (part, *Error) {
	text := strings.SplitN(p.src[p.pos:p.pos+n], "\n", 2)[0]
	x.refuse = fmt.Sprintf("%s %s", text, why)
	p.advance(n)
	return x, nil
}

// closing is the place of the bracket that closes the one s begins with, or -1. Brackets in quotes do not count.
func closing(s string) int {
	depth, quote := 0, byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quote != '\'':
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
		case c == '"' || c == '\'':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
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

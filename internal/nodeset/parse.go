package nodeset

import (
	"fmt"
	"math/bits"
	"path"
	"slices"
	"strings"
)

// Groups returns the nodes of a group: "rack1" of the default source, which is "", or of a named
// one. The name "*" is all nodes of the source. An unknown source or group is an error, which Parse
// returns.
type Groups func(source, name string) (Set, error)

// Parse reads an expression. Blanks around an operand do not count; the empty text is the empty
// set. A nil groups knows none. An error names the operand it is about.
func Parse(text string, groups Groups) (Set, error) {
	if strings.TrimSpace(text) == "" {
		return Set{}, nil
	}
	var set Set
	// united is the operands after a comma that are not in set yet. They are united at once, as lists
	// of names are long.
	united := make([]element, 0, 1+strings.Count(text, ","))
	seen := patterns{}
	operator := byte(',')
	for {
		operand, next, err := cut(text)
		if err != nil {
			return Set{}, err
		}
		if operator != ',' {
			set, united = set.Union(newSet(united)), nil
		}
		united, err = seen.parseOperand(united, operand, groups)
		if err != nil {
			return Set{}, err
		}
		if operator != ',' {
			set, united = set.operate(operator, newSet(united)), nil
		}
		if len(set.elements)+len(united) > MaxNodes {
			if set, united = set.Union(newSet(united)), nil; set.Len() > MaxNodes {
				return Set{}, tooMany(operand)
			}
		}
		if next == len(text) {
			return set.Union(newSet(united)), nil
		}
		operator, text = text[next], text[next+1:]
	}
}

func (s Set) operate(operator byte, t Set) Set {
	switch operator {
	case '!':
		return s.Difference(t)
	case '&':
		return s.Intersection(t)
	default:
		return s.SymmetricDifference(t)
	}
}

func tooMany(text string) error {
	return fmt.Errorf("%q: more than %d nodes in one expression", short(text), MaxNodes)
}

// short bounds what an error repeats of the text.
func short(text string) string {
	const most = 60
	if len(text) <= most {
		return text
	}
	return text[:most] + "..."
}

// cut finds the end of the first operand: an operator outside brackets, or the end of the text.
func cut(text string) (operand string, end int, err error) {
	open := false
	for end = 0; end < len(text); end++ {
		switch c := text[end]; {
		case c == '[' && open:
			return "", 0, fmt.Errorf("%q: a range in a range: close the first bracket before the second opens", short(text))
		case c == '[':
			open = true
		case c == ']' && !open:
			return "", 0, fmt.Errorf("%q: a closing bracket without an opening one", short(text))
		case c == ']':
			open = false
		case !open && strings.IndexByte(",!&^", c) >= 0:
			return strings.TrimSpace(text[:end]), end, nil
		}
	}
	if open {
		return "", 0, fmt.Errorf("%q: the bracket is not closed", short(text))
	}
	return strings.TrimSpace(text), end, nil
}

// parseOperand appends what stands between two operators.
func (p patterns) parseOperand(to []element, operand string, groups Groups) ([]element, error) {
	if operand == "" {
		return nil, fmt.Errorf("an operator (, ! & ^) has no node or group on one of its sides")
	}
	if name, ok := strings.CutPrefix(operand, "@"); ok {
		nodes, err := parseGroup(operand, name, groups)
		return append(to, nodes.elements...), err
	}
	ranges, wildcard := strings.IndexByte(operand, '[') >= 0, strings.ContainsAny(operand, "*?")
	if !ranges && !wildcard {
		return append(to, p.elementOf(operand)), checkName(operand, operand, "")
	}
	names, err := expand(operand, "*?")
	if err != nil {
		return nil, err
	}
	if wildcard {
		nodes, err := match(operand, names, groups)
		return append(to, nodes.elements...), err
	}
	return append(to, p.elementsOf(names)...), nil
}

// parseGroup returns the nodes of all groups that the operand names.
func parseGroup(operand, name string, groups Groups) (Set, error) {
	source := ""
	if before, after, ok := strings.Cut(name, ":"); ok {
		source, name = before, after
		if source == "" {
			return Set{}, fmt.Errorf("%q: the source before the colon has no name", short(operand))
		}
	}
	if name == "" {
		return Set{}, fmt.Errorf("%q: the group has no name", short(operand))
	}
	names := []string{"*"}
	if name != "*" {
		var err error
		if names, err = expand(name, ""); err != nil {
			return Set{}, err
		}
	}
	var set Set
	for _, name := range names {
		if groups == nil {
			return Set{}, fmt.Errorf("%q: groups are not known here", short(operand))
		}
		nodes, err := groups(source, name)
		if err != nil {
			return Set{}, err
		}
		set = set.Union(nodes)
	}
	return set, nil
}

// match returns all nodes that one of the patterns matches. None is an error: what was meant to
// be excluded would be silently kept.
func match(operand string, patterns []string, groups Groups) (Set, error) {
	if groups == nil {
		return Set{}, fmt.Errorf("%q: a wildcard is matched against all nodes, which are not known here", short(operand))
	}
	all, err := groups("", "*")
	if err != nil {
		return Set{}, err
	}
	var found []element
	for _, e := range all.elements {
		name := e.String()
		for _, pattern := range patterns {
			if ok, _ := path.Match(pattern, name); ok {
				found = append(found, e)
				break
			}
		}
	}
	if len(found) == 0 {
		return Set{}, fmt.Errorf("%q: no node has such a name", short(operand))
	}
	return Set{found}, nil
}

// expand writes out the ranges of an operand. Besides the characters of a name it may hold those of
// others.
func expand(operand, others string) ([]string, error) {
	names := []string{""}
	for rest, before := operand, ""; rest != ""; {
		if rest[0] != '[' {
			end := strings.IndexByte(rest, '[')
			if end < 0 {
				end = len(rest)
			}
			if err := checkName(operand, rest[:end], others); err != nil {
				return nil, err
			}
			for i := range names {
				names[i] += rest[:end]
			}
			rest, before = rest[end:], rest[:end]
			continue
		}
		if before == "[" {
			return nil, fmt.Errorf("%q: two ranges with nothing between them: write a character between the brackets", short(operand))
		}
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return nil, fmt.Errorf("%q: the bracket is not closed", short(operand))
		}
		indexes, err := expandRanges(operand, rest[1:end])
		if err == nil {
			err = checkDigits(operand, before, rest[:end+1], rest[end+1:], indexes)
		}
		if err != nil {
			return nil, err
		}
		if over, product := bits.Mul64(uint64(len(names)), uint64(len(indexes))); over != 0 || product > MaxNodes {
			return nil, tooMany(operand)
		}
		longer := make([]string, 0, len(names)*len(indexes))
		for _, name := range names {
			for _, index := range indexes {
				longer = append(longer, name+index)
			}
		}
		names, rest, before = longer, rest[end+1:], "["
	}
	return names, nil
}

// checkDigits refuses a digit beside a bracket where ClusterShell 1.9 puts it to the ends of the
// range and not to each number: it reads n1[8-10] as n[18-110], which is 93 nodes. Nobody means
// that, and a text must not name other nodes here than there.
func checkDigits(operand, before, brackets, after string, indexes []string) error {
	sameWidth := true
	for _, index := range indexes {
		sameWidth = sameWidth && len(index) == len(indexes[0])
	}
	digitBefore := before != "" && isDigit(before[len(before)-1])
	digitAfter := after != "" && isDigit(after[0])
	switch {
	case digitBefore && !sameWidth:
		return fmt.Errorf("%q: a digit before a range of numbers of different lengths: put the digit into the range, as in n[18-20]", short(operand))
	case digitAfter && strings.Contains(brackets, "/"):
		return fmt.Errorf("%q: a digit after a range with a step: put the digit into the range", short(operand))
	case digitAfter && !sameWidth && slices.Contains(indexes, "0"):
		return fmt.Errorf("%q: a digit after a range with a 0 and numbers of different lengths: put the digit into the range", short(operand))
	}
	return nil
}

// checkName refuses what no node can be called, so that "n1 n2" and "n1;n2" are errors and not one
// strange node.
func checkName(operand, text, others string) error {
	for _, c := range text {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		case strings.ContainsRune(others, c):
		case c == ' ' || c == '\t':
			return fmt.Errorf("%q: a blank inside a name: separate nodes by commas", short(operand))
		default:
			return fmt.Errorf("%q: %q is not a character of a node's name", short(operand), c)
		}
	}
	return nil
}

// expandRanges writes out what stands between brackets: "1-9/2,12".
func expandRanges(operand, text string) ([]string, error) {
	var indexes []string
	for part := range strings.SplitSeq(text, ",") {
		r, err := parseRange(operand, strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		if uint64(len(indexes))+(r.last-r.first)/r.step >= MaxNodes {
			return nil, tooMany(operand)
		}
		for v := r.first; v <= r.last; v += r.step {
			indexes = append(indexes, fmt.Sprintf("%0*d", r.width, v))
		}
	}
	return indexes, nil
}

// indexRange is the numbers from first to last in steps, at least width characters each.
type indexRange struct {
	first, last, step uint64
	width             int
}

func parseRange(operand, text string) (indexRange, error) {
	fail := func(reason string) (indexRange, error) {
		return indexRange{}, fmt.Errorf("%q: range %q: %s", short(operand), short(text), reason)
	}
	if text == "" {
		return fail("it is empty: write numbers between the brackets, such as [1-4,9]")
	}
	bounds, stepText, stepped := strings.Cut(text, "/")
	firstText, lastText, isRange := strings.Cut(bounds, "-")
	if !isRange {
		lastText = firstText
	}
	firstText, lastText = strings.TrimSpace(firstText), strings.TrimSpace(lastText)
	r := indexRange{step: 1}
	var ok [3]bool
	r.first, ok[0] = parseNumber(firstText)
	r.last, ok[1] = parseNumber(lastText)
	ok[2] = true
	if stepped {
		r.step, ok[2] = parseNumber(strings.TrimSpace(stepText))
	}
	leading := len(firstText) > 1 && firstText[0] == '0'
	switch {
	case ok != [3]bool{true, true, true} || stepped && !isRange:
		return fail(fmt.Sprintf("write a number, FIRST-LAST or FIRST-LAST/STEP, of at most %d digits", maxDigits))
	case r.step == 0:
		return fail("the step is 0")
	case r.last < r.first:
		return fail("it ends before it starts")
	case len(firstText) != len(lastText) && (leading || len(lastText) > 1 && lastText[0] == '0'):
		return fail("its ends have different numbers of leading zeros: write both with the same number of digits")
	}
	if leading {
		r.width = len(firstText)
	}
	return r, nil
}

func parseNumber(digits string) (uint64, bool) {
	if digits == "" || len(digits) > maxDigits {
		return 0, false
	}
	for i := range len(digits) {
		if !isDigit(digits[i]) {
			return 0, false
		}
	}
	return numberOf(digits).value(), true
}

// Package nodeset is sets of node names, written as ClusterShell's users write them:
//
//	n[001-128,200]     ranges, with steps (n[1-9/2]) and padding (n[01-12])
//	r[1-4]n[1-16]      several dimensions
//	a,b  a!b  a&b  a^b union, difference, intersection, symmetric difference: from left to right
//	@rack1  @label:hpc groups, of the default source or a named one; @rack[1-2] is two
//	@*  n1?            all nodes, and wildcards that all nodes are matched against
//
// The source of the syntax is ClusterShell 1.9's nodeset(1), and what that program prints. What would
// be a silent mistake there is an error here: an unknown group or a wildcard without a match, which
// is the empty set there; a character that no node's name has, such as a blank between two names;
// and a digit before a range of numbers of different lengths (checkDigits).
//
// The package reads no files and runs nothing. Groups come from a function of the caller.
package nodeset

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// MaxNodes is how many nodes an expression may name, and each of its operands. It bounds the
// memory of what a stranger may write: 65,536 names occupy about 8 MiB.
const MaxNodes = 1 << 16

// Set is a set of node names. The zero value is the empty set. A Set does not change.
type Set struct {
	elements []element // sorted by compare, without duplicates
}

// element is one name: its text with each number replaced by a mark, and the numbers.
// A number keeps its width, because n1, n01 and n001 are three nodes.
type element struct {
	pattern string // "n\x00-ib" of n12-ib
	first   number // 0 where the name has no number
	rest    string // the numbers after the first, 8 bytes each, big-endian: strings compare as they do
}

// mark stands for a number in a pattern. No name holds it.
const mark = '\x00'

// number is a number of a name with its width: the width in the upper 6 bits, the value below.
// As integers, numbers are in ClusterShell's order: the shorter first, then by value.
type number uint64

const (
	valueBits = 58
	// maxDigits is the width of the widest number: 10^17 is below 2^58. Longer runs of digits are text.
	maxDigits = 17
)

func numberOf(digits string) number {
	var value uint64
	for i := range len(digits) {
		value = value*10 + uint64(digits[i]-'0')
	}
	return number(uint64(len(digits))<<valueBits | value)
}

func (n number) width() int    { return int(n >> valueBits) }
func (n number) value() uint64 { return uint64(n) & (1<<valueBits - 1) }

// padded is whether the number has leading zeros.
func (n number) padded() bool {
	return n.width() > 1 && n.value() < power10[n.width()-1]
}

// power10 is the powers of ten up to 10^maxDigits.
var power10 = func() (p [maxDigits + 1]uint64) {
	p[0] = 1
	for i := range maxDigits {
		p[i+1] = p[i] * 10
	}
	return p
}()

func (n number) append(b []byte) []byte {
	var digits [maxDigits]byte
	w := n.width()
	for i, v := w-1, n.value(); i >= 0; i-- {
		digits[i] = byte('0' + v%10)
		v /= 10
	}
	return append(b, digits[:w]...)
}

// elementOf takes a name apart.
func elementOf(name string) element { return patterns{}.elementOf(name) }

// patterns are those seen so far: many names share one, which is then kept once.
type patterns map[string]string

func (p patterns) elementOf(name string) element {
	if !strings.ContainsAny(name, "0123456789") {
		return element{pattern: name}
	}
	var e element
	pattern := make([]byte, 0, 64)
	for i := 0; i < len(name); {
		end := i
		for end < len(name) && isDigit(name[end]) {
			end++
		}
		switch {
		case end == i:
			pattern = append(pattern, name[i])
			i++
			continue
		case end-i > maxDigits:
			pattern = append(pattern, name[i:end]...)
		case e.first == 0:
			e.first = numberOf(name[i:end])
			pattern = append(pattern, mark)
		default:
			e.rest += numberOf(name[i:end]).bytes()
			pattern = append(pattern, mark)
		}
		i = end
	}
	known, ok := p[string(pattern)]
	if !ok {
		known = string(pattern)
		p[known] = known
	}
	e.pattern = known
	return e
}

func (p patterns) elementsOf(names []string) []element {
	elements := make([]element, len(names))
	for i, name := range names {
		elements[i] = p.elementOf(name)
	}
	return elements
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func (n number) bytes() string {
	var b [8]byte
	for i := range b {
		b[i] = byte(n >> (56 - 8*i))
	}
	return string(b[:])
}

// dimensions is how many numbers the names of the pattern have.
func dimensions(pattern string) int { return strings.Count(pattern, string(mark)) }

// numbers returns the numbers of the name, the first one first.
func (e element) numbers() []number {
	if e.first == 0 {
		return nil
	}
	all := []number{e.first}
	for rest := e.rest; rest != ""; rest = rest[8:] {
		var n number
		for i := range 8 {
			n = n<<8 | number(rest[i])
		}
		all = append(all, n)
	}
	return all
}

// String returns the name.
func (e element) String() string {
	if e.first == 0 {
		return e.pattern
	}
	b := make([]byte, 0, len(e.pattern)+8)
	numbers := e.numbers()
	for i := range len(e.pattern) {
		if e.pattern[i] == mark {
			b = numbers[0].append(b)
			numbers = numbers[1:]
		} else {
			b = append(b, e.pattern[i])
		}
	}
	return string(b)
}

// compare is the order of names in a set: by their text, then by their numbers.
func compare(a, b element) int {
	if a.pattern != b.pattern {
		return cmp.Or(cmp.Compare(printed(a.pattern), printed(b.pattern)), cmp.Compare(a.pattern, b.pattern))
	}
	if a.first != b.first {
		return cmp.Compare(a.first, b.first)
	}
	return cmp.Compare(a.rest, b.rest)
}

// printed is a pattern as ClusterShell sorts it, where "%s" stands for a number.
func printed(pattern string) string {
	if strings.IndexByte(pattern, mark) < 0 {
		return pattern
	}
	return strings.ReplaceAll(pattern, string(mark), "%s")
}

// Of returns the set of the names as they are: no syntax is read in them.
func Of(names ...string) Set {
	return newSet(patterns{}.elementsOf(names))
}

// newSet takes the elements over.
func newSet(elements []element) Set {
	if !slices.IsSortedFunc(elements, compare) {
		if !sortNumbers(elements) {
			slices.SortFunc(elements, compare)
		}
	}
	return Set{slices.Compact(elements)}
}

// sortNumbers sorts names that differ in their only number, as those of most clusters do, in a
// third of the time that others take.
func sortNumbers(elements []element) bool {
	numbers := make([]number, len(elements))
	for i, e := range elements {
		if e.pattern != elements[0].pattern || e.rest != "" {
			return false
		}
		numbers[i] = e.first
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		elements[i].first = n
	}
	return true
}

// Len is the number of names.
func (s Set) Len() int { return len(s.elements) }

// Contains is whether the name is in the set.
func (s Set) Contains(name string) bool {
	_, found := slices.BinarySearchFunc(s.elements, elementOf(name), compare)
	return found
}

// All returns the names: by their text, then by their numbers, so that n9 comes before n10.
func (s Set) All() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, e := range s.elements {
			if !yield(e.String()) {
				return
			}
		}
	}
}

// Union returns the names that are in s or in t.
func (s Set) Union(t Set) Set {
	if s.Len() == 0 {
		return t
	}
	if t.Len() == 0 {
		return s
	}
	return s.merge(t, true, true, true)
}

// Difference returns the names of s that are not in t.
func (s Set) Difference(t Set) Set { return s.merge(t, true, false, false) }

// Intersection returns the names that are in s and in t.
func (s Set) Intersection(t Set) Set { return s.merge(t, false, true, false) }

// SymmetricDifference returns the names that are in one of s and t alone.
func (s Set) SymmetricDifference(t Set) Set { return s.merge(t, true, false, true) }

// merge goes through both sets in their order, and keeps what is in s alone, in both, in t alone.
func (s Set) merge(t Set, left, both, right bool) Set {
	var kept []element
	keep := func(e element, wanted bool) {
		if wanted {
			kept = append(kept, e)
		}
	}
	i, j := 0, 0
	for i < len(s.elements) || j < len(t.elements) {
		order := 0
		switch {
		case i == len(s.elements):
			order = 1
		case j == len(t.elements):
			order = -1
		default:
			order = compare(s.elements[i], t.elements[j])
		}
		switch {
		case order < 0:
			keep(s.elements[i], left)
			i++
		case order > 0:
			keep(t.elements[j], right)
			j++
		default:
			keep(s.elements[i], both)
			i, j = i+1, j+1
		}
	}
	return Set{kept}
}

// text is a number as it is written.
func (n number) text() string { return string(n.append(nil)) }

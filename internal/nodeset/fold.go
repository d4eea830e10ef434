package nodeset

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// String folds the set: "m2,n[1-9]". Parse reads it back. The empty set is the empty string.
func (s Set) String() string { return s.FoldSteps(0) }

// FoldSteps folds the set with steps, as in n[1-9/2], where at least min nodes are in a row of
// them; 0 and 1 write no steps.
func (s Set) FoldSteps(min int) string {
	var b strings.Builder
	for rest := s.elements; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].pattern == rest[0].pattern {
			n++
		}
		for _, v := range foldPattern(rest[:n]) {
			if b.Len() > 0 {
				b.WriteByte(',')
			}
			v.write(&b, rest[0].pattern, min)
		}
		rest = rest[n:]
	}
	return b.String()
}

// vector is the names of one pattern whose numbers are in these sets, one for each dimension.
type vector []axis

// axis is numbers in their order.
type axis []number

// foldPattern gathers names of one pattern into few vectors that have no name in common.
func foldPattern(elements []element) []vector {
	dims := dimensions(elements[0].pattern)
	if dims == 0 {
		return []vector{nil}
	}
	if dims == 1 {
		a := make(axis, len(elements))
		for i, e := range elements {
			a[i] = e.first
		}
		return []vector{{a}}
	}
	vectors := make([]vector, len(elements))
	for i, e := range elements {
		v := make(vector, dims)
		for d, n := range e.numbers() {
			v[d] = axis{n}
		}
		vectors[i] = v
	}
	return join(vectors)
}

// join makes vectors that have no name in common fewer, in ClusterShell's order and by its rule:
// two vectors are one where they differ along one dimension alone, and the greater ones are tried
// first. Which vectors come out of a set that is no product depends on that order.
func join(vectors []vector) []vector {
	for changed := true; changed; {
		slices.SortStableFunc(vectors, compareVectors)
		vectors, changed = joinNeighbours(vectors)
	}
	if len(vectors) > mostPairs {
		for d := range vectors[0] {
			vectors = gather(vectors, d)
		}
	}
	for changed := len(vectors) <= mostPairs; changed; {
		slices.SortStableFunc(vectors, compareVectors)
		vectors, changed = joinPairs(vectors)
	}
	slices.SortStableFunc(vectors, compareVectors)
	return vectors
}

// mostPairs is up to how many vectors each is compared with each: a million comparisons, some
// milliseconds.
const mostPairs = 1 << 10

// joinNeighbours joins each vector with those that come directly after it.
func joinNeighbours(vectors []vector) (joined []vector, changed bool) {
	for _, v := range vectors {
		if last := len(joined) - 1; last >= 0 {
			if d := joined[last].differs(v); d >= 0 {
				joined[last] = joined[last].with(d, v[d])
				changed = true
				continue
			}
		}
		joined = append(joined, v)
	}
	return joined, changed
}

// joinPairs joins each vector with all later ones that it can be joined with.
func joinPairs(vectors []vector) (joined []vector, changed bool) {
	for i := 0; i < len(vectors); i++ {
		for j := i + 1; j < len(vectors); {
			d := vectors[i].differs(vectors[j])
			if d < 0 {
				j++
				continue
			}
			vectors[i] = vectors[i].with(d, vectors[j][d])
			vectors = slices.Delete(vectors, j, j+1)
			changed = true
		}
	}
	return vectors, changed
}

// differs returns the one dimension along which v and w differ, and -1 if there are more.
func (v vector) differs(w vector) int {
	found := -1
	for d := range v {
		if slices.Equal(v[d], w[d]) {
			continue
		}
		if found >= 0 {
			return -1
		}
		found = d
	}
	return found
}

// with returns the vector with more numbers in dimension d.
func (v vector) with(d int, more axis) vector {
	w := slices.Clone(v)
	w[d] = slices.Concat(v[d], more)
	slices.Sort(w[d])
	return w
}

// gather makes one vector of all those that are equal but for dimension d.
func gather(vectors []vector, d int) []vector {
	at := make(map[string]int, len(vectors))
	var gathered []vector
	var key []byte
	for _, v := range vectors {
		key = key[:0]
		for i, a := range v {
			if i == d {
				continue
			}
			for _, n := range a {
				key = append(key, n.bytes()...)
			}
			key = append(key, 0xff) // no number begins with it: a width is below 18
		}
		if i, ok := at[string(key)]; ok {
			gathered[i] = gathered[i].with(d, v[d])
			continue
		}
		at[string(key)] = len(gathered)
		gathered = append(gathered, v)
	}
	return gathered
}

// compareVectors is ClusterShell's order: the vector with most names first, then the one with the
// longer axes, then by the text of the first and the last numbers.
func compareVectors(v, w vector) int {
	if c := cmp.Compare(w.size(), v.size()); c != 0 {
		return c
	}
	for d := range v {
		c := cmp.Or(cmp.Compare(len(w[d]), len(v[d])), cmp.Compare(v[d][0].text(), w[d][0].text()),
			cmp.Compare(v[d][len(v[d])-1].text(), w[d][len(w[d])-1].text()))
		if c != 0 {
			return c
		}
	}
	return 0
}

func (v vector) size() int {
	size := 1
	for _, a := range v {
		size *= len(a)
	}
	return size
}

// write writes the pattern with the vector's numbers in it.
func (v vector) write(b *strings.Builder, pattern string, min int) {
	d := 0
	for i := range len(pattern) {
		if pattern[i] != mark {
			b.WriteByte(pattern[i])
			continue
		}
		v[d].write(b, min)
		d++
	}
}

func (a axis) write(b *strings.Builder, min int) {
	if len(a) == 1 {
		b.WriteString(a[0].text())
		return
	}
	b.WriteByte('[')
	for i := 0; i < len(a); {
		if i > 0 {
			b.WriteByte(',')
		}
		n, step := a[i:].row(min)
		b.WriteString(a[i].text())
		if n > 1 {
			b.WriteByte('-')
			b.WriteString(a[i+n-1].text())
		}
		if step > 1 {
			b.WriteByte('/')
			b.WriteString(strconv.FormatUint(step, 10))
		}
		i += n
	}
	b.WriteByte(']')
}

// row returns how many numbers from the first one on can be written as one range, and its step.
func (a axis) row(min int) (n int, step uint64) {
	if len(a) == 1 || !a[0].leadsTo(a[1]) {
		return 1, 1
	}
	step = a[1].value() - a[0].value()
	n = 2
	for n < len(a) && a[0].leadsTo(a[n]) && a[n].value() == a[n-1].value()+step {
		n++
	}
	if step > 1 && (min < 2 || n < min) {
		return 1, 1
	}
	return n, step
}

// leadsTo is whether a range that begins with first may hold n: both have the same width, or
// neither has leading zeros.
func (first number) leadsTo(n number) bool {
	return n.value() > first.value() && (n.width() == first.width() || !first.padded() && !n.padded())
}

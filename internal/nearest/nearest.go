// Package nearest finds the name that the user of a mistyped one probably meant, for "did you mean"
// in error messages. It does not know what the names stand for and is not a search: a word that
// differs too much from every name has no result.
package nearest

import "strings"

// Name returns the element of have with the smallest edit distance to want, without regard to
// letter case, or "" if even that element differs in more than a third of its letters. Words of
// four letters or more may always differ by two edits. Of elements with the same distance the first
// is returned.
func Name(want string, have []string) string {
	best, bestDistance := "", -1
	for _, name := range have {
		d := distance(strings.ToLower(want), strings.ToLower(name))
		if bestDistance < 0 || d < bestDistance {
			best, bestDistance = name, d
		}
	}
	if bestDistance > allowed(max(len(want), len(best))) {
		return ""
	}
	return best
}

// Hint is Name as the tail of an error message: `; did you mean "x"?`, or "".
func Hint(want string, have []string) string {
	if name := Name(want, have); name != "" {
		return `; did you mean "` + name + `"?`
	}
	return ""
}

// Choice is the tail of an error message about a word that is not one of have: `: choose a, b or c`,
// followed by Hint.
func Choice(want string, have []string) string {
	list, last := "", len(have)-1
	for i, name := range have {
		switch {
		case i == 0:
		case i == last:
			list += " or "
		default:
			list += ", "
		}
		list += name
	}
	return ": choose " + list + Hint(want, have)
}

// allowed is the largest distance at which two names look alike; n is the length in bytes of the
// longer one.
func allowed(n int) int {
	if n < 4 {
		return 1
	}
	return max(2, n/3)
}

// distance is the restricted Damerau-Levenshtein distance of a and b in bytes. An insertion, a
// deletion, a substitution and a swap of neighbours count as one edit each. A swap, the most
// frequent typing error, would be two edits in the Levenshtein distance.
func distance(a, b string) int {
	before := make([]int, len(b)+1) // the row before the previous one
	prev := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, prev[j]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}

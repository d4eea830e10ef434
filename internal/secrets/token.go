package secrets

import (
	"bytes"
	"iter"
	"regexp"
	"slices"
)

// tokenFormats are tokens that say themselves what they are, by a prefix that nothing else has, a length and an
// alphabet. The expressions are for the text from the prefix on.
var tokenFormats = []struct {
	mark    string
	pattern *regexp.Regexp
}{
	// GitHub: classic, OAuth, of an app's user, of an app, to refresh; fine-grained.
	{"gh", regexp.MustCompile(`^gh[pousr]_[A-Za-z0-9]{36,251}`)},
	{"gi", regexp.MustCompile(`^github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}`)},
	// GitLab: 20 characters, in later versions more.
	{"gl", regexp.MustCompile(`^glpat-[A-Za-z0-9_-]{20,300}`)},
	// Slack: of a bot, a user, an app.
	{"xo", regexp.MustCompile(`^xox[abeprs]-([0-9]+-){1,4}[A-Za-z0-9]{24,64}`)},
	{"xa", regexp.MustCompile(`^xapp-[0-9]-[A-Z0-9]+-[0-9]+-[a-f0-9]{64}`)},
	{"AK", awsID},
}

var (
	// An AWS access key's id is no secret. The line with its other half is, and says no more of itself than its name.
	awsID     = regexp.MustCompile(`^AKIA[A-Z2-7]{16}`)
	awsSecret = regexp.MustCompile(`(?i)(secret_?(access_?)?key)\w*["']?\s*[=:]\s*["']?([A-Za-z0-9/+]{40})(["'\s,;]|$)`)
)

// anyToken finds tokens of well-known formats in a file of any name.
//
// Every text file of the tree comes by here, so the prefixes' first letters are looked for first, which bytes.IndexByte
// does at many bytes a cycle, and hardly ever more.
func anyToken(text []byte) []int {
	if binary(text[:min(len(text), 512)]) {
		return nil
	}
	var found []int
	aws := false
	for _, first := range []byte("gxA") {
		for i := range starts(text, first) {
			switch pattern, token := tokenAt(text[i:]); {
			case token == nil:
			case pattern == awsID:
				aws = true
			default:
				found = append(found, 1+bytes.Count(text[:i], []byte{'\n'}))
			}
		}
	}
	if aws {
		found = append(found, eachLine(text, func(line []byte) bool {
			m := awsSecret.FindSubmatch(line)
			return m != nil && !placeholder(m[3])
		})...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// starts yields where a word begins with a letter.
func starts(text []byte, letter byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		for at := 0; ; at++ {
			next := bytes.IndexByte(text[at:], letter)
			if next < 0 {
				return
			}
			at += next
			if (at == 0 || !wordByte(text[at-1])) && !yield(at) {
				return
			}
		}
	}
}

// tokenAt returns the token that a text begins with, and its format; nil where it is none.
func tokenAt(text []byte) (*regexp.Regexp, []byte) {
	for _, f := range tokenFormats {
		if len(text) < 2 || string(text[:2]) != f.mark {
			continue
		}
		token := f.pattern.Find(text)
		if token != nil && (len(token) == len(text) || !wordByte(text[len(token)])) && !placeholder(token) {
			return f.pattern, token
		}
	}
	return nil, nil
}

// wordByte reports what does not end a token.
func wordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// placeholder reports what manuals write in a token's place: "ghp_xxxx", "glpat-your-token-here", and the keys of AWS's
// own manuals, which end in EXAMPLE. A token is drawn at random: 16 characters of 32 have fewer than 8 different ones
// once in 20,000, and 20 of 64 are small letters and dashes only once in 15 million.
func placeholder(token []byte) bool {
	if bytes.Contains(token, []byte("EXAMPLE")) {
		return true
	}
	seen := map[byte]bool{}
	mixed := false
	for _, c := range token[4:] {
		seen[c] = true
		mixed = mixed || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z'
	}
	return len(seen) < 8 || !mixed
}

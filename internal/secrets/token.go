package secrets

import (
	"bytes"
	"iter"
	"regexp"
	"slices"
)

// tokenFormats are tokens with a distinctive format: a unique prefix, a length and an alphabet. The
// expressions match the text from the prefix on.
var tokenFormats = []struct {
	mark    string
	pattern *regexp.Regexp
}{
	// GitHub: classic, OAuth, user of an app, server of an app, refresh; fine-grained.
	{"gh", regexp.MustCompile(`^gh[pousr]_[A-Za-z0-9]{36,251}`)},
	{"gi", regexp.MustCompile(`^github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}`)},
	// GitLab: 20 characters; later versions have more.
	{"gl", regexp.MustCompile(`^glpat-[A-Za-z0-9_-]{20,300}`)},
	// Slack: of a bot, a user, an app.
	{"xo", regexp.MustCompile(`^xox[abeprs]-([0-9]+-){1,4}[A-Za-z0-9]{24,64}`)},
	{"xa", regexp.MustCompile(`^xapp-[0-9]-[A-Z0-9]+-[0-9]+-[a-f0-9]{64}`)},
	{"AK", awsID},
}

var (
	// The ID of an AWS access key is not a secret. The secret is in another line, and can be
	// recognized only by its name.
	awsID     = regexp.MustCompile(`^AKIA[A-Z2-7]{16}`)
	awsSecret = regexp.MustCompile(`(?i)(secret_?(access_?)?key)\w*["']?\s*[=:]\s*["']?([A-Za-z0-9/+]{40})(["'\s,;]|$)`)
)

// anyToken finds tokens of well-known formats in a file of any name.
//
// It runs on every text file of the tree. It therefore searches first for the first letters of the
// prefixes, which bytes.IndexByte does at many bytes a cycle; further work is rarely necessary.
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

// starts yields the positions where a word begins with a letter.
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

// tokenAt returns the token at the beginning of a text, and its format, or nil if there is none.
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

// wordByte reports whether a byte can be part of a word.
func wordByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// placeholder reports whether a token is an example from a manual: "ghp_xxxx",
// "glpat-your-token-here", and AWS's example keys, which end in EXAMPLE. Real tokens are random: 16
// characters from an alphabet of 32 have fewer than 8 different ones once in 20,000 tokens, and 20
// from an alphabet of 64 are only small letters and dashes once in 15 million.
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

package kernel

import (
	"cmp"
	"slices"
	"strings"
)

// newer compares two releases by their versions with compare, and then by their flavours: the plain
// kernel of a distribution comes before one for special machines, such as "cloud", which lacks most
// drivers.
func (t *tree) newer(a, b string) int {
	versionA, flavourA := cutFlavour(a)
	versionB, flavourB := cutFlavour(b)
	upstreamA, _, _ := strings.Cut(versionA, "-")
	upstreamB, _, _ := strings.Cut(versionB, "-")
	return cmp.Or(
		t.compare(upstreamA, upstreamB),
		rank(ownSeries(versionB), ownSeries(versionA)),
		t.compare(versionA, versionB),
		rank(t.isPlain(flavourA), t.isPlain(flavourB)),
		t.compare(a, b),
	)
}

// rank puts true after false.
func rank(a, b bool) int {
	if a == b {
		return 0
	}
	return pick(a)
}

// ownSeries reports whether the builds of a version are counted from 1001 on, as Ubuntu does for
// kernels for special machines: 5.15.0-1034-kvm is not newer than 5.15.0-91-generic.
func ownSeries(version string) bool {
	_, build := cutLast(version, '-')
	digits, rest := span(build, isDigit)
	return len(digits) == 4 && rest == ""
}

// cutFlavour splits a release: "6.1.0-56-cloud-amd64" has the version 6.1.0-56, and
// "6.12.38+deb13-amd64" the version 6.12.38+deb13.
func cutFlavour(release string) (version, flavour string) {
	version, rest, _ := strings.Cut(release, "-")
	build, flavour, _ := strings.Cut(rest, "-")
	if build == "" || !isDigit(build[0]) || build == "686" { // of Debian, an architecture
		return version, rest
	}
	return version + "-" + build, flavour
}

// isPlain reports whether a flavour is that of the kernel for most machines of its distribution.
func (t *tree) isPlain(flavour string) bool {
	return slices.Contains([]string{"", "generic", "default", "686-pae", t.arch}, flavour)
}

// compareDebian compares two releases as dpkg compares versions without an epoch (deb-version(7),
// "Sorting algorithm").
func compareDebian(a, b string) int {
	upstreamA, revisionA := cutLast(a, '-')
	upstreamB, revisionB := cutLast(b, '-')
	if c := compareDebianPart(upstreamA, upstreamB); c != 0 {
		return c
	}
	return compareDebianPart(revisionA, revisionB)
}

func cutLast(s string, sep byte) (before, after string) {
	if i := strings.LastIndexByte(s, sep); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

func compareDebianPart(a, b string) int {
	for a != "" || b != "" {
		for startsWithoutDigit(a) || startsWithoutDigit(b) {
			if c := cmp.Compare(debianOrder(a), debianOrder(b)); c != 0 {
				return c
			}
			a, b = a[1:], b[1:] // both begin with a character of the same order
		}
		var numberA, numberB string
		numberA, a = span(a, isDigit)
		numberB, b = span(b, isDigit)
		if c := compareNumbers(numberA, numberB); c != 0 {
			return c
		}
	}
	return 0
}

func startsWithoutDigit(s string) bool { return s != "" && !isDigit(s[0]) }

// debianOrder returns the order of the first character: a tilde sorts before the end, the end (and
// a digit) before letters, and letters before all others.
func debianOrder(s string) int {
	switch {
	case s == "" || isDigit(s[0]):
		return 0
	case s[0] == '~':
		return -1
	case isLetter(s[0]):
		return int(s[0])
	default:
		return int(s[0]) + 256
	}
}

// compareRPM compares two releases, "version-release.arch", first by version and then by release.
// Variants of one version ("+debug", "+rt") sort before the plain kernel, so that the plain kernel
// is chosen.
func compareRPM(a, b string) int {
	plainA, variantA, isVariantA := strings.Cut(a, "+")
	plainB, variantB, isVariantB := strings.Cut(b, "+")
	versionA, releaseA, _ := strings.Cut(plainA, "-")
	versionB, releaseB, _ := strings.Cut(plainB, "-")
	if c := rpmVercmp(versionA, versionB); c != 0 {
		return c
	}
	if c := rpmVercmp(releaseA, releaseB); c != 0 {
		return c
	}
	if isVariantA != isVariantB {
		if isVariantA {
			return -1
		}
		return 1
	}
	return strings.Compare(variantA, variantB)
}

// rpmVercmp compares two strings as rpm does (rpm-version(7)): by runs of digits and of letters. A
// tilde sorts before the end, and a caret after the end but before anything else.
func rpmVercmp(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, isRPMSeparator), strings.TrimLeftFunc(b, isRPMSeparator)
		if tildeA, tildeB := strings.HasPrefix(a, "~"), strings.HasPrefix(b, "~"); tildeA || tildeB {
			if tildeA != tildeB {
				return pick(tildeB)
			}
			a, b = a[1:], b[1:]
			continue
		}
		if caretA, caretB := strings.HasPrefix(a, "^"), strings.HasPrefix(b, "^"); caretA || caretB {
			if caretA != caretB {
				return pick(caretA && b == "" || caretB && a != "")
			}
			a, b = a[1:], b[1:]
			continue
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b))
		}
		class := isLetter
		if isDigit(a[0]) {
			class = isDigit
		}
		var runA, runB string
		runA, a = span(a, class)
		runB, b = span(b, class)
		switch {
		case runB == "": // a number is newer than a word
			return pick(isDigit(runA[0]))
		case isDigit(runA[0]):
			if c := compareNumbers(runA, runB); c != 0 {
				return c
			}
		default:
			if c := strings.Compare(runA, runB); c != 0 {
				return c
			}
		}
	}
}

// pick returns the result of a comparison in which the first is newer, or older.
func pick(firstIsNewer bool) int {
	if firstIsNewer {
		return 1
	}
	return -1
}

func isRPMSeparator(r rune) bool {
	return r > 127 || !isDigit(byte(r)) && !isLetter(byte(r)) && r != '~' && r != '^'
}

// compareNumbers compares runs of digits of any length.
func compareNumbers(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return cmp.Compare(len(a), len(b))
	}
	return strings.Compare(a, b)
}

// span splits off the longest beginning whose characters are all of one class.
func span(s string, class func(byte) bool) (run, rest string) {
	n := 0
	for n < len(s) && class(s[n]) {
		n++
	}
	return s[:n], s[n:]
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

package secrets

import (
	"slices"
	"strings"
)

// exampleDirs are the names of directories with examples and with material for tests.
var exampleDirs = []string{
	"test", "tests", "testing", "testdata", "test-data", "test_data", "fixtures", "doc", "docs", "examples", "man",
}

func hasExample(dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return slices.Contains(exampleDirs, d) })
}

// ofDistribution reports whether a file lies where packages have their files that nobody edits, and
// whether that is in a directory of examples. Only the lists of the packages can say that one of
// them has brought it.
func ofDistribution(name string) (ok, example bool) {
	dirs := strings.Split(name, "/")
	dirs = dirs[:len(dirs)-1]
	ok = len(dirs) > 1 && dirs[0] == "usr" && dirs[1] != "local"
	for _, mark := range pythonDirs {
		ok = ok || strings.Contains(name, mark)
	}
	return ok, ok && hasExample(dirs)
}

// pythonDirs are where pip installs libraries, each with a list of its files.
var pythonDirs = []string{"/site-packages/", "/dist-packages/"}

// ofLanguage reports whether a file is material for the tests of a language, or of a library that
// its package manager has installed. Everyone can have that, and no list of files says so.
func ofLanguage(name string) bool {
	if strings.Contains("/"+name, "/go/src/crypto/") {
		return true
	}
	for _, mark := range []string{"/lib/python2.", "/lib/python3.", "/node_modules/", "/gems/", "/pkg/mod/", "/registry/src/", "/go/src/"} {
		if _, below, ok := strings.Cut("/"+name, mark); ok {
			dirs := strings.Split(below, "/")
			return hasExample(dirs[:len(dirs)-1]) || strings.HasSuffix(name, "_test.go")
		}
	}
	return false
}

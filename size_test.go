package netroot_test

import (
	"fmt"
	"go/ast"
	"maps"
	"slices"
	"strings"
	"testing"
)

const (
	maxPackage  = 1500 // lines without tests
	longFile    = 450
	longFunc    = 60
	namedAtMost = 20 // of long functions in the log
)

// large are the packages that may have more than maxPackage lines, and the reason.
var large = map[string]string{
	"cmd/netroot":              "one file for each verb",
	"internal/bootstrap":       "one file for each agent",
	"internal/build":           "the one order in which an image is made",
	"internal/layer":           "both kinds of layers, read and applied by the same code",
	"internal/nodeinit":        "the steps of a boot in their order; what they do with a device or a network is in packages below",
	"internal/nodeinit/attach": "one file for each transport",
	"internal/proto/iscsi":     "login, SCSI commands and task management of one protocol",
	"internal/proto/nfs3":      "three programs of ONC RPC: NFS, MOUNT and NFSACL",
	"internal/proto/nvmetcp":   "fabrics, admin and I/O commands of one protocol",
	"internal/recipe":          "two dialects of one format, and what is said about a text that is neither",
	"internal/store":           "one snapshot of the index, which resolving, commits, tags, collection and checks all work on; the files are in store/layout",
	"test/exercise":            "every call that a file system answers",
}

type size struct{ code, tests int }

// TestPackageSizes prints, with -v, the size of every package and the long files and functions. It
// fails for a package that outgrew maxPackage without a reason, and for a reason that is given for
// no package.
func TestPackageSizes(t *testing.T) {
	sizes := map[string]*size{}
	var files, funcs []string
	for _, s := range sources(t) {
		n := s.line(s.file.FileEnd)
		if sizes[s.dir] == nil {
			sizes[s.dir] = &size{}
		}
		if s.test {
			sizes[s.dir].tests += n
			continue
		}
		sizes[s.dir].code += n
		if n > longFile {
			files = append(files, fmt.Sprintf("%5d %s", n, s.path))
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
				if n := s.line(f.End()) - s.line(f.Pos()) + 1; n > longFunc {
					funcs = append(funcs, fmt.Sprintf("%5d %s %s", n, s.path, f.Name.Name))
				}
			}
		}
	}
	var table strings.Builder
	var all size
	for _, dir := range slices.Sorted(maps.Keys(sizes)) {
		s := sizes[dir]
		all.code, all.tests = all.code+s.code, all.tests+s.tests
		fmt.Fprintf(&table, "%6d %6d  %s\n", s.code, s.tests, dir)
		switch reason := large[dir]; {
		case s.code > maxPackage && reason == "":
			t.Errorf("%s has %d lines without tests, more than %d: split it, or give the reason in the list \"large\" of this test", dir, s.code, maxPackage)
		case s.code <= maxPackage && reason != "":
			t.Logf("%s has %d lines: large need not name it any more", dir, s.code)
		}
	}
	for dir := range large {
		if sizes[dir] == nil {
			t.Errorf("large names %s, which is not a package", dir)
		}
	}
	t.Logf("lines without tests, lines of tests:\n%s%6d %6d  in all", &table, all.code, all.tests)
	longest(t, fmt.Sprintf("files of more than %d lines", longFile), files)
	longest(t, fmt.Sprintf("functions of more than %d lines", longFunc), funcs)
}

// longest logs the first of a list of what is long, the longest first.
func longest(t *testing.T, what string, list []string) {
	t.Helper()
	slices.SortFunc(list, func(a, b string) int { return strings.Compare(b, a) })
	t.Logf("%d %s\n%s", len(list), what, strings.Join(list[:min(len(list), namedAtMost)], "\n"))
}

// Package netroot_test checks the rules that no compiler checks, over the whole
// source: which way imports point, how large packages are, and what no file may
// contain. CONTRIBUTING.md states them in words. It tests no behaviour.
package netroot_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// drawers are package names that do not say what is inside.
var drawers = []string{"util", "utils", "common", "helper", "helpers", "types", "models", "misc"}

type source struct {
	path string // relative to the module
	dir  string
	file *ast.File
	test bool
	fset *token.FileSet
}

// line is the number of the line of a position.
func (s source) line(p token.Pos) int { return s.fset.PositionFor(p, false).Line }

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && name != ".") {
			return fs.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(name), path.Dir(filepath.ToSlash(name)), f, strings.HasSuffix(name, "_test.go"), fset})
		return nil
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%d sources, %v", len(all), err)
	}
	return all
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if slices.Contains(drawers, s.file.Name.Name) {
			t.Errorf("%s: a package called %s does not say what is inside: name it for what it does", s.path, s.file.Name.Name)
		}
		name := strings.TrimSuffix(s.file.Name.Name, "_test")
		want := "Package " + name + " "
		if s.file.Name.Name == "main" {
			want = "Command "
		}
		doc := s.file.Doc.Text()
		ok := strings.HasPrefix(doc, want) || strings.HasPrefix(doc, "Package "+s.file.Name.Name+" ")
		documented[s.dir] = documented[s.dir] || ok
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file opens with a comment that says what the package is", dir)
		}
	}
}

func TestNoHiddenStartOrEnd(t *testing.T) {
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if f.Name.Name == "init" && f.Recv == nil {
				t.Errorf("%s: init() runs in every program that imports the package: have main call it", s.path)
			}
			if s.test || s.file.Name.Name == "main" && f.Name.Name == "main" {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := call.X.(*ast.Ident)
				if ok && ends(pkg.Name, call.Sel.Name) && !mayExit[s.path] {
					t.Errorf("%s: %s calls %s.%s: return an error; only main exits", s.path, f.Name.Name, pkg.Name, call.Sel.Name)
				}
				return true
			})
		}
	}
}

// ends reports a function that ends the process.
func ends(pkg, name string) bool {
	switch pkg {
	case "os", "unix", "syscall":
		return name == "Exit"
	case "log":
		return strings.HasPrefix(name, "Fatal")
	}
	return false
}

// mayExit names the files beside main that end a process: the inner half of the
// sandbox and the keeper of foreign servers, which are processes of their own in
// our binary.
var mayExit = map[string]bool{"internal/sandbox/inner.go": true, "internal/foreign/keeper.go": true}

// TestNoMarks: what is not done is said in the documentation or on the command
// line. The source has no marks for it.
func TestNoMarks(t *testing.T) {
	mark := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	for _, s := range sources(t) {
		for _, g := range s.file.Comments {
			if m := mark.FindString(g.Text()); m != "" && s.path != "conventions_test.go" {
				t.Errorf("%s has a comment with %s", s.path, m)
			}
		}
	}
}

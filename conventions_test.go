// Package netroot_test holds the whole source against the rules that no
// compiler checks: which way imports point, and what no file may contain.
// CONTRIBUTING.md says them in words.
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
	"strconv"
	"strings"
	"testing"
)

// law is what a package must not import, and why.
var law = []struct {
	importers string // a folder; "" is all of them
	forbidden []string
	why       string
}{
	{"internal/proto", []string{"netroot/"}, "a protocol is words on a wire; who sends what is decided above it, and it can be lifted out whole, with proto/accept alone"},
	{"internal/recipe", []string{"os", "net", "os/exec"}, "a recipe is text; what parses it must be the same on every machine"},
	{"internal/boot", []string{"os", "net/http", "os/exec", "netroot/internal/store", "netroot/internal/serve"}, "what a machine is told is a pure function that can be printed"},
	{"internal/site", []string{"os", "net/http", "os/exec", "netroot/internal/store", "netroot/internal/serve", "netroot/internal/config", "netroot/internal/pack"}, "what the owner wrote is data; what a machine is told of it is a pure function that can be printed"},
	{"internal/export", []string{"os", "net/http", "os/exec", "netroot/internal/store", "netroot/internal/serve"}, "what a site's servers are told is a pure function that can be printed"},
	{"internal/foreign", []string{"netroot/internal/store", "netroot/internal/serve", "netroot/internal/build", "netroot/internal/config"}, "it runs what it is told, as package vm does"},
	{"internal/handoff", []string{"os", "net", "net/http", "os/exec", "netroot/"}, "server and node share it: it must be the same on both"},
	{"internal/kmod", []string{"os", "net", "golang.org/x/sys/unix", "netroot/"}, "the generator and the node read the same indexes with it"},
	{"internal/nodeinit", []string{"text/template", "html/template", "netroot/internal/store", "netroot/internal/serve", "netroot/internal/build", "netroot/internal/config", "netroot/internal/term", "github.com/spf13/cobra"}, "it ships to every node and stays small"},
	{"internal/build", []string{"netroot/internal/serve", "netroot/internal/vm"}, "building and serving meet in the store alone"},
	{"internal/serve", []string{"netroot/internal/build", "netroot/internal/bootstrap", "netroot/internal/sandbox"}, "building and serving meet in the store alone"},
	{"", []string{"netroot/cmd/"}, "commands are wiring; what is worth importing lies under internal"},
}

// lawful is the one package of ours that importers may import all the same: the loop under every protocol's server.
var lawful = map[string]string{"internal/proto": "netroot/internal/proto/accept"}

// drawers are names that say nothing about what is inside.
var drawers = []string{"util", "utils", "common", "helper", "helpers", "types", "models", "misc"}

type source struct {
	path string // relative to the module
	dir  string
	file *ast.File
	test bool
}

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
		all = append(all, source{filepath.ToSlash(name), path.Dir(filepath.ToSlash(name)), f, strings.HasSuffix(name, "_test.go")})
		return nil
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("%d sources, %v", len(all), err)
	}
	return all
}

func TestImportsPointOneWay(t *testing.T) {
	for _, s := range sources(t) {
		if s.test { // tests may start servers and read files
			continue
		}
		for _, spec := range s.file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			for _, l := range law {
				if name == lawful[l.importers] || l.importers != "" && s.dir != l.importers && !strings.HasPrefix(s.dir, l.importers+"/") {
					continue
				}
				for _, f := range l.forbidden {
					if name == f || strings.HasSuffix(f, "/") && strings.HasPrefix(name, f) {
						t.Errorf("%s imports %s: %s", s.path, name, l.why)
					}
				}
			}
		}
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if slices.Contains(drawers, s.file.Name.Name) {
			t.Errorf("%s: a package called %s is a drawer: name it for what it does", s.path, s.file.Name.Name)
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
				t.Errorf("%s: init() runs for everybody who imports the package: have main call it", s.path)
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
				if ok && (pkg.Name == "os" && call.Sel.Name == "Exit" || pkg.Name == "log" && strings.HasPrefix(call.Sel.Name, "Fatal")) && !mayExit[s.path] {
					t.Errorf("%s: %s calls %s.%s: return an error, main alone exits", s.path, f.Name.Name, pkg.Name, call.Sel.Name)
				}
				return true
			})
		}
	}
}

// mayExit names the files beside main that end a process: the inner half of the
// sandbox and the keeper of foreign servers, processes of their own in our binary.
var mayExit = map[string]bool{"internal/sandbox/inner.go": true, "internal/foreign/keeper.go": true}

// TestNoMarks: what is not done is said in the documentation or on the command
// line, not left in the source.
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

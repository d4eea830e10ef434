package netroot_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"io"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "netroot"

// rule says what some packages must not reach.
//
// Packages are named below the module; "x/..." is x and everything below it. A package that does
// not exist yet is held to its rule as soon as it does. Names of packages of ours begin with
// "netroot/", other names are import paths. Tests are not held to any rule: they may start servers
// and read files.
type rule struct {
	packages []string
	// direct is what the packages themselves must not import. It is the only place where "os" can
	// stand: fmt reaches os, so every package does in the end.
	direct []string
	// never is what they must not reach in any number of steps.
	never []string
	// ours, where it is not nil, is all that they may reach of our packages, themselves apart.
	ours []string
	// modules, where it is not nil, is all that they may reach of other modules, as prefixes of
	// import paths.
	modules []string
	why     string
}

// pure are the packages that compute and do nothing else: the same input gives the same output on
// every machine.
var pure = []string{
	"internal/recipe", "internal/nodeset", "internal/site", "internal/boot", "internal/handoff", "internal/event",
	"internal/kmod", "internal/export", "internal/nearest",
}

// node are the packages that the initramfs of every machine holds.
var node = []string{"internal/nodeinit/...", "cmd/netroot-init"}

var rules = []rule{
	{
		packages: []string{"internal/proto/..."},
		ours:     []string{"internal/proto/accept"},
		never:    []string{"net/http", "os/exec", "text/template", "html/template"},
		why:      "a protocol package defines what is on the wire; which bytes are sent is decided above it, and it can be used elsewhere with proto/accept alone",
	},
	{
		packages: pure,
		direct:   []string{"os", "io/ioutil", "syscall", "golang.org/x/sys/unix"},
		never:    []string{"net/http", "net/rpc", "crypto/tls", "os/exec", "os/signal", "os/user", "plugin", "log", "log/slog", "time/tzdata"},
		ours:     pure,
		modules:  []string{"github.com/opencontainers/go-digest"},
		why:      "the package is pure: it opens no file, starts no process and listens nowhere, so that its result can be printed and tested",
	},
	{
		packages: []string{"internal/handoff", "internal/kmod", "internal/event"},
		ours:     []string{"internal/handoff", "internal/kmod", "internal/event"},
		modules:  []string{},
		why:      "server and node share the package: it must mean the same on both, and add little to the node",
	},
	{
		packages: node,
		never: []string{
			"text/template", "html/template", "database/...", "encoding/gob", "encoding/xml", "go/...", "testing", "net/http/httputil", "net/http/pprof", "net/rpc", "expvar",
			"netroot/internal/store/...", "netroot/internal/state/...", "netroot/internal/registry/...", "netroot/internal/site", "netroot/internal/nodeset",
			"netroot/internal/config", "netroot/internal/serve/...", "netroot/internal/api/...", "netroot/internal/ui/...", "netroot/internal/build", "netroot/internal/recipe",
			"netroot/internal/term", "netroot/internal/vm", "netroot/internal/export",
		},
		modules: []string{
			"golang.org/x/", "github.com/insomniacslk/dhcp/", "github.com/u-root/uio/", "github.com/mdlayher/", "github.com/josharian/native", "github.com/pierrec/lz4/",
			"github.com/vishvananda/netlink", "github.com/vishvananda/netns",
		},
		why: "the init is sent to every node at every boot, so it stays small",
	},
	{
		packages: []string{"internal/build"},
		never:    []string{"netroot/internal/serve/...", "netroot/internal/api/...", "netroot/internal/ui/...", "netroot/internal/state/...", "netroot/internal/proto/...", "netroot/internal/vm"},
		why:      "building and serving meet in the store alone",
	},
	{
		packages: []string{"internal/serve/...", "internal/api/...", "internal/ui/...", "internal/state/..."},
		never:    []string{"netroot/internal/build", "netroot/internal/bootstrap", "netroot/internal/sandbox", "netroot/internal/recipe", "netroot/internal/pack", "netroot/internal/dracut"},
		why:      "building and serving meet in the store alone",
	},
	{
		packages: []string{"internal/store/layout"},
		ours:     []string{"internal/store/layout"},
		why:      "the layout is files, digests and entries; what an image is and which ones may be removed is known above it",
	},
	{
		packages: []string{"internal/store/...", "internal/registry/..."},
		never:    []string{"netroot/internal/serve/...", "netroot/internal/build", "netroot/internal/config", "netroot/internal/site", "netroot/internal/boot"},
		why:      "the store keeps bytes and names; it knows neither how they were made nor who asks for them",
	},
	{
		packages: []string{"internal/foreign"},
		direct:   []string{"netroot/internal/store", "netroot/internal/serve", "netroot/internal/build", "netroot/internal/config"},
		why:      "the package starts the servers that it is told to start, as package vm does with machines",
	},
	{
		packages: []string{"..."},
		never:    []string{"netroot/cmd/..."},
		why:      "commands are wiring and text; code that is worth importing lies below internal",
	},
}

// unit is a package as "go list -json" describes it.
type unit struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

func (u unit) name() string { return strings.TrimPrefix(strings.TrimPrefix(u.ImportPath, module), "/") }

// ours reports a package of this module.
func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

// in reports whether a name is one of the patterns: the name itself, or "x/..." for x and
// everything below it.
func in(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		dir, below := strings.CutSuffix(p, "...")
		return name == p || below && (dir == "" || name+"/" == dir || strings.HasPrefix(name, dir))
	})
}

// units asks the go command for every package of the module and everything that they reach, for the
// machines that netroot is built for.
func units(t *testing.T) (own []unit, standard map[string]bool) {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Env = append(cmd.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v: %v\n%s", cmd, err, exit.Stderr)
		}
		t.Fatal(err)
	}
	standard = map[string]bool{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var u unit
		if err := dec.Decode(&u); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		standard[u.ImportPath] = u.Standard
		if ours(u.ImportPath) {
			own = append(own, u)
		}
	}
	if len(own) == 0 {
		t.Fatal("go list names no package of this module")
	}
	return own, standard
}

// broken is how a package breaks a rule: the import paths that it must not reach, in order.
func (r rule) broken(u unit, standard map[string]bool) []string {
	var bad []string
	for _, name := range u.Imports {
		if in(name, r.direct) {
			bad = append(bad, name)
		}
	}
	for _, name := range u.Deps {
		switch {
		case in(name, r.never):
		case ours(name) && r.ours != nil && !in(strings.TrimPrefix(name, module+"/"), r.ours):
		case !ours(name) && !standard[name] && r.modules != nil && !slices.ContainsFunc(r.modules, func(m string) bool { return strings.HasPrefix(name, m) }):
		default:
			continue
		}
		bad = append(bad, name)
	}
	return bad
}

// chain is one way from a package to what it reaches, for the message.
func chain(from, to string, own []unit) string {
	imports := map[string][]string{}
	for _, u := range own {
		imports[u.ImportPath] = u.Imports
	}
	before := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range imports[queue[0]] {
			if _, seen := before[next]; seen {
				continue
			}
			before[next] = queue[0]
			queue = append(queue, next)
		}
	}
	if _, found := before[to]; !found {
		return to + " (through another module)"
	}
	way := to
	for at := before[to]; at != ""; at = before[at] {
		way = at + " -> " + way
	}
	return way
}

// TestImportsPointOneWay holds every package to the rules, over all that it reaches.
func TestImportsPointOneWay(t *testing.T) {
	own, standard := units(t)
	for _, r := range rules {
		held := 0
		for _, u := range own {
			if !in(u.name(), r.packages) {
				continue
			}
			held++
			for _, name := range r.broken(u, standard) {
				t.Errorf("%s reaches %s: %s\n  %s", u.name(), name, r.why, chain(u.ImportPath, name, own))
			}
		}
		if held == 0 {
			t.Errorf("no package is held to the rule of %v", r.packages)
		}
	}
}

// TestRules: the rules find what they are for.
func TestRules(t *testing.T) {
	standard := map[string]bool{"os": true, "net/http": true, "fmt": true}
	for _, tt := range []struct {
		packages string
		imports  []string
		deps     []string
		want     []string
	}{
		{"internal/site", []string{"fmt", "netroot/internal/boot"}, []string{"fmt", "os", "netroot/internal/boot"}, nil},
		{"internal/site", []string{"os"}, []string{"os"}, []string{"os"}},
		{"internal/site", []string{"fmt"}, []string{"fmt", "net/http", "example.org/x"}, []string{"net/http", "example.org/x"}},
		{"internal/boot", []string{"netroot/internal/store"}, []string{"netroot/internal/store"}, []string{"netroot/internal/store"}},
		{"internal/proto/nbd", []string{"os"}, []string{"os", "netroot/internal/proto/accept"}, nil},
		{"internal/proto/nbd", nil, []string{"netroot/internal/proto/nvmetcp"}, []string{"netroot/internal/proto/nvmetcp"}},
		{"internal/nodeinit/attach", nil, []string{"net/http", "golang.org/x/sys/unix", "netroot/internal/state/bolt"}, []string{"netroot/internal/state/bolt"}},
		{"internal/state/etcd", nil, []string{"netroot/internal/build"}, []string{"netroot/internal/build"}},
		{"test/lab", nil, []string{"netroot/cmd/netroot"}, []string{"netroot/cmd/netroot"}},
	} {
		var got []string
		for _, r := range rules {
			if in(tt.packages, r.packages) {
				got = append(got, r.broken(unit{ImportPath: module + "/" + tt.packages, Imports: tt.imports, Deps: tt.deps}, standard)...)
			}
		}
		slices.Sort(got)
		slices.Sort(tt.want)
		if got = slices.Compact(got); !slices.Equal(got, tt.want) {
			t.Errorf("%s with %v, %v breaks %v, want %v", tt.packages, tt.imports, tt.deps, got, tt.want)
		}
	}
}

// uses are the names of a package that some of ours may use, or must not: an import alone does not
// tell whether net is there to parse an address or to listen.
var uses = []struct {
	packages []string
	pkg      string   // import path
	only     []string // the names that may be used; nil: all but those of never
	never    []string // prefixes
	why      string
}{
	{pure, "net", []string{"IP", "IPMask", "IPNet", "HardwareAddr", "ParseIP", "ParseCIDR", "ParseMAC", "JoinHostPort", "SplitHostPort"}, nil,
		"the package is pure: it may read and write addresses, and must not use a network"},
	{node, "net/http", nil, []string{"Serve", "Server", "ListenAndServe", "Handle", "NewServeMux", "FileServer"},
		"the node has no HTTP server"},
	{node, "crypto/tls", nil, []string{"Server", "Listen", "NewListener"},
		"the node has no TLS server"},
}

// TestUses looks at what is used of a package that may be imported.
func TestUses(t *testing.T) {
	for _, s := range sources(t) {
		for _, u := range uses {
			if s.test || !in(s.dir, u.packages) {
				continue
			}
			local := importedAs(s.file, u.pkg)
			if local == "" {
				continue
			}
			ast.Inspect(s.file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				name := sel.Sel.Name
				if x, ok := sel.X.(*ast.Ident); !ok || x.Name != local {
					return true
				}
				if u.only != nil && !slices.Contains(u.only, name) || slices.ContainsFunc(u.never, func(p string) bool { return strings.HasPrefix(name, p) }) {
					t.Errorf("%s uses %s.%s: %s", s.path, u.pkg, name, u.why)
				}
				return true
			})
		}
	}
}

// importedAs is the name that a file has for an import path; empty: it does not import it.
func importedAs(f *ast.File, importPath string) string {
	for _, spec := range f.Imports {
		if name, _ := strconv.Unquote(spec.Path.Value); name != importPath {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}

// Package kmod reads the index files that depmod writes beside a kernel's modules, and answers two
// questions: which modules does a device request, and which files must be loaded, in which order,
// for a module to work?
//
// The package only reads files through io/fs and has no access to the running kernel. It neither
// loads modules nor reads module files, and of modprobe's own configuration (modprobe.d) it knows
// only what keeps modules out.
//
// # Formats
//
// All files are lines of text; '#' begins a comment line, and blank lines are skipped.
//
//   - modules.dep (modules.dep(5)): "path: path path ...", the file of the module and the files
//     that it requires, relative to the module directory. The list is transitive and must be loaded
//     from its end.
//   - modules.alias: "alias PATTERN NAME"; PATTERN is matched with fnmatch(3) without flags.
//   - modules.softdep: "softdep NAME pre: a b post: c". Each word is the name of a module or an
//     alias ("crypto-crc32c", "platform:idma64"). Before a root is mounted, only "pre" matters;
//     modprobe and this package ignore words before "pre:" or "post:", which some kernels write.
//   - modules.builtin: one path a line, for the modules that are part of the kernel image.
//
// The name of a module is the name of its file without ".ko" and the text after it. In names and
// aliases '-' and '_' are equal (modprobe(8)); the kernel itself always shows '_'.
package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// ErrNotFound is wrapped by errors about a module that is not in the index.
var ErrNotFound = errors.New("no such module in the index")

// Module is a loadable module.
type Module struct {
	Name string // with underscores, as /proc/modules shows it
	Path string // path of its file, relative to the module directory, as in modules.dep

	// Soft is set by LoadOrder for a module that is only preferred (by a softdep) and not
	// required. If it cannot be loaded, as crc32c_intel on a processor without the instruction,
	// the following modules must be loaded anyway.
	Soft bool
}

// Index is the content of the index files. Several goroutines may call its methods at once.
type Index struct {
	modules map[string]*entry
	builtin map[string]string // paths by name
	aliases aliasTable
}

type entry struct {
	Module
	deps []string // paths of the direct and indirect dependencies, in the order of the file
	pre  []string // names or aliases
}

// Read merges every *.dep, *.alias, *.softdep and *.builtin file in dir itself. (Its subdirectories
// contain thousands of modules but no index.) If two files describe a module, the last file by name
// counts. A directory without such files gives an empty index; a missing directory is an error.
func Read(fsys fs.FS, dir string) (*Index, error) {
	files, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	x := &Index{modules: map[string]*entry{}, builtin: map[string]string{}}
	softdeps := map[string][]string{}
	parsers := map[string]func(line string) error{
		".dep":     x.parseDep,
		".alias":   x.aliases.parse,
		".softdep": func(line string) error { return parseSoftdep(softdeps, line) },
		".builtin": x.parseBuiltin,
	}
	for _, f := range files {
		parse, ok := parsers[path.Ext(f.Name())]
		if !ok || f.IsDir() {
			continue
		}
		text, err := fs.ReadFile(fsys, path.Join(dir, f.Name()))
		if err != nil {
			return nil, fmt.Errorf("read module index: %w", err)
		}
		if err := eachLine(string(text), parse); err != nil {
			return nil, fmt.Errorf("read module index: %s:%w", path.Join(dir, f.Name()), err)
		}
	}
	for name, pre := range softdeps {
		if e := x.modules[name]; e != nil {
			e.pre = pre
		}
	}
	return x, nil
}

// eachLine calls parse for each line that is not blank or a comment. Its error begins with the line
// number.
func eachLine(text string, parse func(string) error) error {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if err := parse(line); err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
	}
	return nil
}

func (x *Index) parseDep(line string) error {
	file, deps, ok := strings.Cut(line, ":")
	if !ok || file == "" {
		return fmt.Errorf("%.80q is not \"path: paths\"", line)
	}
	name := Name(file)
	x.modules[name] = &entry{Module: Module{Name: name, Path: file}, deps: strings.Fields(deps)}
	return nil
}

func (x *Index) parseBuiltin(line string) error {
	x.builtin[Name(line)] = line
	return nil
}

func parseSoftdep(into map[string][]string, line string) error {
	words := strings.Fields(line)
	if words[0] != "softdep" || len(words) < 2 {
		return fmt.Errorf("%.80q is not \"softdep name pre: names\"", line)
	}
	name, pre := normal(words[1]), false
	for _, w := range words[2:] {
		switch {
		case w == "pre:" || w == "post:":
			pre = w == "pre:"
		case pre && !slices.Contains(into[name], w):
			into[name] = append(into[name], w)
		}
	}
	return nil
}

// Name returns the name of the module that a path names:
// "kernel/arch/x86/crypto/crc32c-intel.ko.xz" is crc32c_intel. It also accepts a bare name, with
// '-' or '_'.
func Name(file string) string {
	base := file[strings.LastIndexByte(file, '/')+1:]
	if i := strings.LastIndex(base, ".ko"); i > 0 {
		base = base[:i]
	}
	return normal(base)
}

// normal replaces '-' with '_'.
func normal(s string) string { return strings.ReplaceAll(s, "-", "_") }

// Has reports whether the kernel has the module, loadable or built in.
func (x *Index) Has(name string) bool {
	_, ok := x.modules[normal(name)]
	return ok || x.Builtin(name)
}

// Builtin reports whether the module is part of the kernel image.
func (x *Index) Builtin(name string) bool {
	_, ok := x.builtin[normal(name)]
	return ok
}

// Modules lists the loadable modules in the order of their paths.
func (x *Index) Modules() []Module {
	list := make([]Module, 0, len(x.modules))
	for _, e := range x.modules {
		list = append(list, e.Module)
	}
	slices.SortFunc(list, func(a, b Module) int { return strings.Compare(a.Path, b.Path) })
	return list
}

// Match returns the names of the modules for a device with this modalias (the content of its sysfs
// file, without the line end), each once and in the order of the index.
func (x *Index) Match(modalias string) []string { return x.aliases.match(normal(modalias)) }

// Resolve returns the modules that a word of a softdep or of request_module() refers to: the module
// with that name if there is one, loadable or built in, otherwise the modules that have it as an
// alias.
func (x *Index) Resolve(word string) []string {
	if x.Has(word) {
		return []string{normal(word)}
	}
	return x.Match(word)
}

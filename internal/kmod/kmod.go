// Package kmod reads the index files that depmod writes beside a kernel's modules and answers two questions:
// which modules does a device ask for, and which files must be loaded, in which order, for a module to work.
//
// It is pure: it reads through io/fs and knows nothing of the running kernel. It neither loads modules nor reads
// the module files themselves, and it ignores modprobe's own configuration (modprobe.d, blacklists, options).
//
// # Formats
//
// All files are lines of text; '#' begins a comment line and blank lines are skipped.
//
//   - modules.dep (modules.dep(5)): "path: path path ...", the module's file and the files that it needs, relative
//     to the module directory. The list is transitive and is to be loaded from its end.
//   - modules.alias: "alias PATTERN NAME"; PATTERN is matched by fnmatch(3) without flags.
//   - modules.softdep: "softdep NAME pre: a b post: c". Each word is a module's name or an alias ("crypto-crc32c",
//     "platform:idma64"). Only "pre" is of use before a root is mounted; words before "pre:" or "post:", which some
//     kernels write, mean nothing to modprobe and mean nothing here.
//   - modules.builtin: one path a line, for the modules that are part of the kernel image.
//
// A module's name is its file's name without ".ko" and what follows. In names and aliases '-' and '_' are equal
// (modprobe(8)); the kernel itself always shows '_'.
package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// ErrNotFound is wrapped by the errors about a module that the index does not name.
var ErrNotFound = errors.New("no such module in the index")

// Module is a module that can be loaded.
type Module struct {
	Name string // with underscores, as /proc/modules shows it
	Path string // of its file, relative to the module directory, as modules.dep has it

	// Soft is set by LoadOrder on a module that is wanted (by a softdep) but not needed: failing to load it, as
	// crc32c_intel does on a processor without the instruction, is no reason to give up the ones after it.
	Soft bool
}

// Index is what the files say. Methods may be called from several goroutines at once.
type Index struct {
	modules map[string]*entry
	builtin map[string]string // name to path
	aliases aliasTable
}

type entry struct {
	Module
	deps []string // paths, the module's direct and indirect needs, in the file's order
	pre  []string // names or aliases
}

// Read merges every *.dep, *.alias, *.softdep and *.builtin file that lies in dir itself (not in its subfolders:
// they hold thousands of modules and no index). A module that two files describe is taken from the last one by
// file name. A directory without such files gives an empty index, one that is missing an error.
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

// eachLine calls parse for the lines that carry something. Its error begins with the line's number.
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

// Name gives the name of the module that a path names: "kernel/arch/x86/crypto/crc32c-intel.ko.xz" is
// crc32c_intel. A bare name, with '-' or '_', is accepted too.
func Name(file string) string {
	base := file[strings.LastIndexByte(file, '/')+1:]
	if i := strings.LastIndex(base, ".ko"); i > 0 {
		base = base[:i]
	}
	return normal(base)
}

// normal makes '-' and '_' the same.
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

// Match gives the names of the modules that want a device with this modalias (the content of its sysfs file,
// without the line's end), in the order of the index and each once.
func (x *Index) Match(modalias string) []string { return x.aliases.match(normal(modalias)) }

// Resolve gives the modules that a word of a softdep or of request_module() means: the module of that name if there
// is one, loadable or built in, else the ones that have it as an alias.
func (x *Index) Resolve(word string) []string {
	if x.Has(word) {
		return []string{normal(word)}
	}
	return x.Match(word)
}

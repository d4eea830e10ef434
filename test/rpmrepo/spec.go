package rpmrepo

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// Package is an RPM to make.
type Package struct {
	Name, Arch, Summary string
	EVR                 EVR
	Requires            []string // as in a spec file: "glibc >= 2.36", "(a or b)"
	Provides, Conflicts []string
	Pre                 []string // Requires(pre)
	Scriptlets          []Scriptlet
	Files               []File

	Of     *Release // nil: every release has it
	Update bool     // belongs to the updates of the release
}

// EVR is a version in RPM's form. Epoch may be empty.
type EVR struct{ Epoch, Version, Release string }

func (v EVR) String() string {
	s := v.Version
	if v.Epoch != "" {
		s = v.Epoch + ":" + s
	}
	return s + "-" + v.Release
}

func (p *Package) file() string {
	return fmt.Sprintf("%s-%s-%s.%s.rpm", p.Name, p.EVR.Version, p.EVR.Release, p.Arch)
}

// Scriptlet runs when packages are installed. Kind is its name in a spec file: "%post",
// "%transfiletriggerin".
type Scriptlet struct {
	Kind, Body string
	Paths      []string // paths of a file trigger
}

// File is a file, directory or link of a package.
type File struct {
	Path        string // absolute path
	User, Group string
	Mode        fs.FileMode // type, permissions, setuid, setgid and sticky
	Config      bool
	Caps        string // as for setcap(8)
}

// line returns the line for the file in a %files section. A link has no mode.
func (f File) line() string {
	mode := fmt.Sprintf("%04o", unixMode(f.Mode))
	if f.Mode&fs.ModeSymlink != 0 {
		mode = "-"
	}
	words := []string{fmt.Sprintf("%%attr(%s, %s, %s)", mode, f.User, f.Group)}
	if f.Caps != "" {
		words = append(words, fmt.Sprintf("%%caps(%s)", f.Caps))
	}
	if f.Config {
		words = append(words, "%config(noreplace)")
	}
	if f.Mode.IsDir() {
		words = append(words, "%dir")
	}
	return strings.Join(append(words, `"`+strings.ReplaceAll(f.Path, "%", "%%")+`"`), " ")
}

// unixMode returns the permission bits as in chmod(2).
func unixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for _, special := range []struct {
		flag fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&special.flag != 0 {
			bits |= special.bit
		}
	}
	return bits
}

// Spec returns a spec file that makes all packages from the files in the build root.
func Spec(packages []*Package) string {
	var b strings.Builder
	b.WriteString("Name: test\nVersion: 1\nRelease: 1\nSummary: Packages for tests\nLicense: various\nAutoReqProv: no\n\n" +
		"%description\n%summary\n\n%install\n")
	for _, p := range packages {
		p.spec(&b)
	}
	return b.String()
}

func (p *Package) spec(b *strings.Builder) {
	fmt.Fprintf(b, "\n%%package -n %s\nVersion: %s\nRelease: %s\n", p.Name, p.EVR.Version, p.EVR.Release)
	if p.EVR.Epoch != "" {
		fmt.Fprintf(b, "Epoch: %s\n", p.EVR.Epoch)
	}
	if p.Arch == "noarch" {
		b.WriteString("BuildArch: noarch\n")
	}
	fmt.Fprintf(b, "Summary: %s\nLicense: various\nAutoReqProv: no\n", strings.ReplaceAll(p.Summary, "%", "%%"))
	for _, tags := range []struct {
		tag  string
		list []string
	}{{"Provides", p.Provides}, {"Requires(pre)", p.Pre}, {"Requires", p.Requires}, {"Conflicts", p.Conflicts}} {
		for _, v := range slices.Compact(slices.Sorted(slices.Values(tags.list))) {
			fmt.Fprintf(b, "%s: %s\n", tags.tag, v)
		}
	}
	fmt.Fprintf(b, "\n%%description -n %s\n%s\n", p.Name, strings.ReplaceAll(p.Summary, "%", "%%"))
	for _, s := range p.Scriptlets {
		where := ""
		if len(s.Paths) > 0 {
			where = " -- " + strings.Join(s.Paths, " ")
		}
		fmt.Fprintf(b, "\n%s -n %s%s\n%s\n", s.Kind, p.Name, where, s.Body)
	}
	fmt.Fprintf(b, "\n%%files -n %s\n", p.Name)
	files := slices.SortedFunc(slices.Values(p.Files), func(x, y File) int { return strings.Compare(x.Path, y.Path) })
	for _, f := range files {
		b.WriteString(f.line() + "\n")
	}
}

package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"netroot/internal/bootstrap"
	"netroot/internal/layer"
	"netroot/internal/recipe"
)

// NoKernel is the value of Options.Kernel that makes an image without a kernel, which no machine
// can boot.
const NoKernel = "none"

// Findings are what is known about the build of a recipe before any work is done.
type Findings struct {
	Problems []recipe.Error   // why the build would fail
	Warnings []recipe.Warning // what may be wrong
}

// Err returns the problems as one error, or nil.
func (f Findings) Err() error {
	var errs []error
	for i := range f.Problems {
		errs = append(errs, &f.Problems[i])
	}
	return errors.Join(errs...)
}

// Check looks for what would end a build only after the bootstrap, or after other stages: agents
// that are unknown or not built in, and sources of %files that do not exist. It also warns of an
// agent whose program this host lacks, and of a recipe that seems to install no kernel. It runs nothing, and uses these Options: Recipe, Dir,
// Kernel, Update, Sections and Binds.
func Check(opt Options) Findings {
	c := checker{opt: opt, src: hostFiles{base: opt.Dir, edit: layer.RootOwned(opt.Dir)}}
	for i, st := range opt.Recipe.Stages {
		if st.Pre != nil && opt.Sections.has("pre") {
			c.scripts = append(c.scripts, "%pre")
		}
		if !opt.Update || i < len(opt.Recipe.Stages)-1 {
			c.agent(st)
		}
		if st.Setup != nil && opt.Sections.has("setup") {
			c.scripts = append(c.scripts, "%setup")
		}
		c.files(st)
	}
	if opt.Kernel != NoKernel && !opt.Update {
		c.kernel()
	}
	return c.Findings
}

type checker struct {
	Findings
	opt     Options
	src     hostFiles
	scripts []string // the scripts so far that run on the host, and may make files there
}

func (c *checker) problem(line int, section string, err error) {
	c.Problems = append(c.Problems, recipe.Error{File: c.opt.Recipe.Name, Line: line, Section: section, Msg: err.Error()})
}

func (c *checker) warn(line int, section, msg, fix string) {
	c.Warnings = append(c.Warnings, recipe.Warning{File: c.opt.Recipe.Name, Line: line, Section: section, Msg: msg, Fix: fix})
}

// missing reports a file of the host that does not exist now. A script that runs on the host before
// it is needed may still make it.
func (c *checker) missing(line int, section string, err error) {
	switch {
	case len(c.scripts) > 0:
		c.warn(line, section, err.Error()+" now", slices.Compact(c.scripts)[0]+" must make it")
	case len(c.opt.Binds) > 0:
		c.warn(line, section, err.Error()+" now", "%post must make it in a directory of --bind")
	default:
		c.problem(line, section, err)
	}
}

func (c *checker) agent(st *recipe.Stage) {
	err := bootstrap.Check(st, c.opt.Dir)
	switch line := st.Header[0].Line; {
	case err == nil:
		// A snapshot may make the program unnecessary.
		if err := bootstrap.CheckHost(st); err != nil {
			c.warn(line, "header", err.Error(), "")
		}
	case errors.Is(err, fs.ErrNotExist):
		c.missing(line, "header", err)
	default:
		c.problem(line, "header", err)
	}
}

// files looks for the sources that a stage copies from the host. A source whose directory may not
// be read here counts as found.
func (c *checker) files(st *recipe.Stage) {
	look := func(section string, entries []recipe.FileEntry) {
		for _, e := range entries {
			switch _, err := c.src.find(e.Src); {
			case errors.Is(err, errNoSource):
				c.missing(e.Line, section, err)
			case errors.Is(err, errEmptySource):
				c.problem(e.Line, section, fmt.Errorf("%s: %w", e.Src, err))
			}
		}
	}
	if c.opt.Sections.has("files") {
		for _, block := range st.Files {
			if block.From == "" {
				look("%files", block.Entries)
			}
		}
	}
	if c.opt.Sections.has("apps") {
		for _, app := range st.Apps {
			look("%appfiles", app.Files)
		}
	}
}

// kernelWord matches words of a recipe that installs a kernel: names of packages and of files.
var kernelWord = regexp.MustCompile(`(?i)kernel|vmlinuz|bootc|\blinux-(image|generic|virtual|lowlatency|oem|hwe|lts|zen|hardened|rt|kvm|azure|aws|gcp|raspi|signed)|\bpve-|proxmox|(?m:\binclude:.*\blinux\b)|pacman.*\blinux\b`)

// kernelPackages are packages with a kernel, by agent.
var kernelPackages = map[string]string{
	"debootstrap": "linux-image-amd64 (Ubuntu: linux-image-generic)", "yum": "kernel", "dnf": "kernel", "zypper": "kernel-default", "arch": "linux",
}

// kernel warns if nothing in a recipe could bring a kernel into the tree. A script of the host, and
// a directory that is copied, could.
func (c *checker) kernel() {
	last := c.opt.Recipe.Stages[len(c.opt.Recipe.Stages)-1]
	agent := strings.ToLower(last.Agent())
	if agent == "localimage" || agent == "oras" || len(c.scripts) > 0 || kernelWord.Match(c.opt.Recipe.Source) || kernelWord.MatchString("include: "+os.Getenv("INCLUDE")) {
		return
	}
	for _, st := range c.opt.Recipe.Stages {
		for _, block := range st.Files {
			if block.From == "" && slices.ContainsFunc(block.Entries, c.mayBringKernel) {
				return
			}
		}
	}
	fix := "install one in %post, for example"
	pkg := kernelPackages[agent]
	switch {
	case agent == "scratch" || agent == "busybox":
		fix, pkg = "copy one with %files", ""
	case pkg != "":
		fix = "add one to Include,"
	default:
		pkg = "linux-image-amd64 of Debian"
	}
	c.warn(last.Line, "", "the recipe seems to install no kernel, without which no machine can boot the image",
		strings.TrimSpace(fix+" "+pkg)+`, or build with "kernel: none" (--kernel none) if it is not for booting`)
}

// mayBringKernel reports whether a source of %files is a directory, or a file that mentions a
// kernel or is too large to be a script.
func (c *checker) mayBringKernel(e recipe.FileEntry) bool {
	const largest = 256 << 10
	found, err := c.src.find(e.Src)
	if err != nil {
		return true
	}
	for _, m := range found {
		fi, err := os.Stat(m.file)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() > largest {
			return true
		}
		text, err := os.ReadFile(filepath.Clean(m.file))
		if err != nil || kernelWord.Match(text) {
			return true
		}
	}
	return false
}

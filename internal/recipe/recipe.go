// Package recipe parses the definition files of Apptainer and Singularity: its input is text, its
// output a Recipe with line numbers. It also prints a Recipe for a reader and as definition text.
//
// It does not build anything. It opens no file, runs no script, and has no knowledge of the agents
// that a Bootstrap line can name, or of the keys and programs that they require.
//
// # Two dialects
//
// By default the parser accepts a superset of what Singularity 2.3 to 3.x and Apptainer 1.x accept,
// so that it can read a recipe that any of them built. With Options.Strict it accepts what
// Apptainer 1.5 accepts, and refuses everything else. The two dialects differ in these points:
//
//	                          default                        strict
//	%end                      ends a section                 error
//	%name, name unknown       text of a script or %help,     error
//	                          error if it looks misspelt
//	%name, indented           a section if name is known     error
//	tab after %name           separates name and arguments   error
//	%name in a here-document  text                           a section
//	header keys               and MetaLink, UpdateMetaLink,  Apptainer's
//	                          GPG
//	'#' in a header or in     a comment at the beginning or  a comment
//	section arguments         after a blank
//	keys above Bootstrap      belong to that stage           error
//	value of Bootstrap        any case                       lower case
//	'x y', x" "y in %files    one word                       error
//	a byte order mark         skipped                        error
//	section over 64 KiB       accepted                       error
//	%files, blanks, comment   %files                         error
//	shell of "%post -c bash"  gets -ex                       does not
//
// # Where a section ends
//
// A line whose first word begins with '%' begins a section, and "Bootstrap:" in column 0 begins a
// stage. Apptainer has no way to quote such lines. In the default dialect, a here-document of a
// script hides both from the parser, so that a script can write an RPM spec file or a sudoers file.
// The parser recognizes a here-document with caution, because a wrong guess would hide the sections
// that follow. It is "<<" or "<<-" and a delimiter of letters, digits and "_.-", bare or quoted,
// outside a comment and outside quotes that close on the same line, and it counts only if a later
// line of the file ends it. If a here-document hides a line that Apptainer would act on, there is a
// Warning.
package recipe

import (
	"path"
	"slices"
	"strings"
)

// Options describe how to parse a recipe.
type Options struct {
	// Strict selects Apptainer's own rules instead of the superset.
	Strict bool
	// Args are build arguments. They override the %arguments of a stage. An argument that no
	// stage uses is an error.
	Args map[string]string
}

// Recipe is a parsed definition file.
type Recipe struct {
	// Name is the file name that was passed to Parse.
	Name string `json:"name"`
	// Source is the whole text after build arguments were replaced, with Unix line ends and
	// without a byte order mark. It has the same lines as the file.
	Source []byte `json:"-"`
	// Written is the same text before build arguments were replaced. It is what may be shown to
	// others, because the values may be secrets.
	Written  []byte    `json:"-"`
	Stages   []*Stage  `json:"stages"` // at least one, in build order
	Warnings []Warning `json:"warnings,omitempty"`
}

// Stage is one header and its sections. The tree of the last stage is the result of the build.
type Stage struct {
	Name   string `json:"name,omitempty"` // value of the key Stage
	Line   int    `json:"line"`
	Header Header `json:"header"`

	Arguments   []Pair       `json:"arguments,omitempty"` // defaults of the build arguments
	Pre         *Script      `json:"pre,omitempty"`
	Setup       *Script      `json:"setup,omitempty"`
	Files       []FilesBlock `json:"files,omitempty"`
	Post        *Script      `json:"post,omitempty"`
	Environment *Script      `json:"environment,omitempty"`
	RunScript   *Script      `json:"runscript,omitempty"`
	StartScript *Script      `json:"startscript,omitempty"`
	Test        *Script      `json:"test,omitempty"`
	Help        *Script      `json:"help,omitempty"`
	Labels      []Pair       `json:"labels,omitempty"`
	Apps        []App        `json:"apps,omitempty"`

	// Sections are the same sections in order, as they were written. Format prints them.
	Sections []Section `json:"-"`
}

// Agent returns the value of the key Bootstrap, which every parsed stage has.
func (s *Stage) Agent() string {
	agent, _ := s.Header.Get("Bootstrap")
	return agent
}

// Stage returns the first stage with that name, which is the one that "%files from NAME" uses.
func (r *Recipe) Stage(name string) (*Stage, bool) {
	i := slices.IndexFunc(r.Stages, func(s *Stage) bool { return s.Name == name })
	if i < 0 || name == "" {
		return nil, false
	}
	return r.Stages[i], true
}

// Header has the keys of a stage: Bootstrap first, the others in the order of the file. Each key
// occurs once.
type Header []Field

// Field is one key of a header. Key has its usual spelling (MirrorURL), however the file spells it.
// Value can be empty and can contain line breaks.
type Field struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Line  int    `json:"line"`
}

// Get returns the value of a key, and whether the key exists. It ignores the key's case.
func (h Header) Get(key string) (string, bool) {
	i := h.index(key)
	if i < 0 {
		return "", false
	}
	return h[i].Value, true
}

func (h Header) index(key string) int {
	return slices.IndexFunc(h, func(f Field) bool { return strings.EqualFold(f.Key, key) })
}

// Script is the text of one kind of section. As in Apptainer, sections of the same kind are joined:
// Line is then that of the first one, and Args are those of the last one that has arguments.
type Script struct {
	Args []string `json:"args,omitempty"`
	// Body is the text as written, without blank lines at its end. It is empty or ends with a
	// line break.
	Body string `json:"body"`
	Line int    `json:"line"` // line with the section's name

	// Bare means that a shell named with "-c" does not get -ex: Options.Strict.
	Bare bool `json:"-"`
}

// Append adds text that begins on a new line. A line that ends in '\' does not continue in it.
func (s *Script) Append(text string) {
	if strings.HasSuffix(s.Body, "\\\n") {
		s.Body += "\n"
	}
	s.Body += text
}

// Shell returns the command that runs a %pre, %setup or %post; the path of the script must be
// appended. It is "/bin/sh -ex" with the section's arguments, or the command of "-c PROGRAM
// ARG...". A shell named that way also gets -ex, unless the script is Bare: Apptainer does not add
// -ex, so that a failing command is not noticed. Other sections do not use Shell: their arguments
// belong to a "#!" line.
func (s *Script) Shell() []string {
	i := slices.Index(s.Args, "-c")
	if i < 0 || i+1 == len(s.Args) {
		return append([]string{"/bin/sh", "-ex"}, s.Args...)
	}
	program, args := s.Args[i+1], s.Args[i+2:]
	shells := []string{"sh", "ash", "bash", "dash", "ksh", "zsh"}
	if !s.Bare && slices.Contains(shells, path.Base(program)) {
		return append([]string{program, "-ex"}, args...)
	}
	return append([]string{program}, args...)
}

// FilesBlock is one %files section.
type FilesBlock struct {
	From    string      `json:"from,omitempty"` // name of an earlier stage; empty: the host
	Line    int         `json:"line"`
	Entries []FileEntry `json:"entries"`
}

// FileEntry is one line of %files. Src may contain patterns of the shell, which are not expanded
// here. Quotes have been removed. An empty Dst means the same path as Src.
type FileEntry struct {
	Src  string `json:"src"`
	Dst  string `json:"dst,omitempty"`
	Line int    `json:"line"`
}

// Pair is one line of %labels or %arguments.
type Pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Line  int    `json:"line"`
}

// App is the content of the %app sections with one name (SCIF).
type App struct {
	Name    string      `json:"name"`
	Line    int         `json:"line"` // line of the first one
	Install *Script     `json:"install,omitempty"`
	Env     *Script     `json:"env,omitempty"`
	Run     *Script     `json:"run,omitempty"`
	Start   *Script     `json:"start,omitempty"`
	Test    *Script     `json:"test,omitempty"`
	Help    *Script     `json:"help,omitempty"`
	Files   []FileEntry `json:"files,omitempty"`
	Labels  []Pair      `json:"labels,omitempty"`
}

// Section is a section as it was written. Name is in lower case and without '%'.
type Section struct {
	Name string
	Args string // the rest of its line
	Body string // as in Script
	Line int
}

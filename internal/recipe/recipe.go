// Package recipe reads Apptainer and Singularity definition files: text in,
// a Recipe with line numbers out. It also prints a Recipe for a reader and as
// definition text again.
//
// It does not build anything: it opens no file, runs no script and knows
// nothing of the agents that a Bootstrap line can name, their keys or the
// programs they need.
//
// # Two dialects
//
// By default the parser takes a superset of what Singularity 2.3 to 3.x and
// Apptainer 1.x took, so that a recipe which any of them built can be read.
// With Options.Strict it takes what Apptainer 1.5 takes and refuses the rest.
// The two differ in these points:
//
//	                          default                        strict
//	%end                      ends a section                 error
//	%name, name unknown       text of a script or %help      error
//	%name, indented           a section if name is known     error
//	TAB after %name           separates name and arguments   error
//	%name in a here-document  text                           a section
//	header keys               and MetaLink, UpdateMetaLink,  Apptainer's
//	                          GPG
//	'#' in a header or in     a comment at the beginning or  a comment
//	section arguments         after a blank
//	keys above Bootstrap      belong to that stage           error
//	value of Bootstrap        any case                       lower case
//	'x y', x" "y in %files    one word                       error
//	a byte order mark         skipped                        error
//	section over 64 KiB       fine                           error
//	shell of "%post -c bash"  gets -ex                       does not
//
// # Where a section ends
//
// A line whose first word begins with '%' begins a section, and "Bootstrap:"
// in column 0 begins a stage, wherever they stand; Apptainer knows no quoting.
// By default a here-document of a script hides both from the parser, so that a
// script can write an RPM spec file or a sudoers file. A here-document is
// recognised with caution, because a wrong guess would swallow the sections
// that follow: it is "<<" or "<<-" and a delimiter of letters, digits and
// "_.-", bare or quoted, outside a comment and outside quotes that close on the
// same line, and it counts only when a line that ends it follows in the file.
// When one of them hides a line that Apptainer would act on, a Warning says so.
package recipe

import (
	"path"
	"slices"
	"strings"
)

// Options say how to read a recipe.
type Options struct {
	// Strict asks for Apptainer's own rules instead of the superset.
	Strict bool
	// Args are build arguments: they win over the %arguments of a stage. One
	// that no stage uses is an error.
	Args map[string]string
}

// Recipe is a definition file that was understood.
type Recipe struct {
	// Name is the file's name as given to Parse.
	Name string `json:"name"`
	// Source is the whole text after build arguments were put in, with Unix
	// line ends and without a byte order mark. Its lines are the lines of the file.
	Source   []byte    `json:"-"`
	Stages   []*Stage  `json:"stages"` // at least one, in the order in which they are built
	Warnings []Warning `json:"warnings,omitempty"`
}

// Stage is one header and its sections. The tree of the last stage is the
// result of the build.
type Stage struct {
	Name   string `json:"name,omitempty"` // from the key Stage
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

	// Sections are the same sections as they were written, in order. Format
	// prints them.
	Sections []Section `json:"-"`
}

// Agent returns the value of the key Bootstrap, which every parsed stage has.
func (s *Stage) Agent() string {
	agent, _ := s.Header.Get("Bootstrap")
	return agent
}

// Stage returns the first stage of that name. "%files from NAME" means it.
func (r *Recipe) Stage(name string) (*Stage, bool) {
	i := slices.IndexFunc(r.Stages, func(s *Stage) bool { return s.Name == name })
	if i < 0 || name == "" {
		return nil, false
	}
	return r.Stages[i], true
}

// Header holds the keys of a stage, Bootstrap first, then in the order of the
// file. No key stands twice.
type Header []Field

// Field is one key of a header. Key has its usual spelling (MirrorURL),
// whatever the file's. Value can be empty, and can hold line breaks.
type Field struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Line  int    `json:"line"`
}

// Get returns the value of a key, in any case, and whether the key is there.
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

// Script is the text of one kind of section. Sections of the same kind are
// joined, as Apptainer does: Line is then the first one's, and Args are those
// of the last one that has any.
type Script struct {
	Args []string `json:"args,omitempty"`
	// Body is the text as written, less blank lines at its end. It is empty or
	// ends with a line break.
	Body string `json:"body"`
	Line int    `json:"line"` // of the line with the section's name

	// Bare leaves a shell that "-c" names without -ex: Options.Strict.
	Bare bool `json:"-"`
}

// Shell returns the command that is to run a %pre, %setup or %post: the path of
// the script is to be appended to it. It is "/bin/sh -ex" with the section's
// arguments, or what "-c PROGRAM ARG..." names. A shell named that way gets
// -ex too, unless the script is Bare: Apptainer leaves it out, and a failing
// command goes by unseen.
// Other sections have no use for it: their arguments belong to a "#!" line.
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
	From    string      `json:"from,omitempty"` // name of an earlier stage; empty: from the host
	Line    int         `json:"line"`
	Entries []FileEntry `json:"entries"`
}

// FileEntry is one line of %files. Src may hold the shell's patterns; they are
// not expanded here, and quotes are gone. An empty Dst means the same path as
// Src.
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

// App is what the %app sections of one name say (SCIF).
type App struct {
	Name    string      `json:"name"`
	Line    int         `json:"line"` // of the first one
	Install *Script     `json:"install,omitempty"`
	Env     *Script     `json:"env,omitempty"`
	Run     *Script     `json:"run,omitempty"`
	Start   *Script     `json:"start,omitempty"`
	Test    *Script     `json:"test,omitempty"`
	Help    *Script     `json:"help,omitempty"`
	Files   []FileEntry `json:"files,omitempty"`
	Labels  []Pair      `json:"labels,omitempty"`
}

// Section is a section as it was written. Name is in lower case and has no '%'.
type Section struct {
	Name string
	Args string // the rest of its line
	Body string // as in Script
	Line int
}

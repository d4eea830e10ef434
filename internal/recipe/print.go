package recipe

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Format returns the recipe as definition text: header keys in their usual spelling, sections as
// they were written, no comments between them. If the text is parsed again with the same dialect
// and without build arguments, it gives the same recipe except for line numbers and warnings.
func (r *Recipe) Format() []byte {
	var b bytes.Buffer
	for i, st := range r.Stages {
		if i > 0 {
			b.WriteByte('\n')
		}
		for _, f := range st.Header {
			// The indentation keeps a continuation line from beginning a stage.
			value := strings.ReplaceAll(f.Value, "\n", "\\n\\\n    ")
			b.WriteString(strings.TrimSuffix(f.Key+": "+value, " ") + "\n")
		}
		for _, s := range st.Sections {
			b.WriteString("\n" + strings.TrimSuffix("%"+s.Name+" "+s.Args, " ") + "\n" + s.Body)
		}
	}
	return b.Bytes()
}

// printer keeps the first error of a writer.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, strings.Map(printable, fmt.Sprintf(format, args...)))
	}
}

// row prints a name and its description.
func (p *printer) row(indent, name, format string, args ...any) {
	p.printf("%s\n", strings.TrimRight(fmt.Sprintf("%s%-14s ", indent, name)+fmt.Sprintf(format, args...), " "))
}

// Print prints the recipe for a reader: headers, the place and effect of each section, files and
// labels. It does not print warnings. The error is the writer's.
func (r *Recipe) Print(w io.Writer) error {
	p := &printer{w: w}
	p.printf("%s: %s\n", r.Name, count(len(r.Stages), "stage"))
	for i, st := range r.Stages {
		name := ""
		if st.Name != "" {
			name = fmt.Sprintf(" %q", st.Name)
		}
		p.printf("\nstage %d%s, line %d\n", i+1, name, st.Line)
		p.stage(st)
	}
	return p.err
}

func (p *printer) stage(st *Stage) {
	const in = "  "
	for _, f := range st.Header {
		p.row(in, f.Key, "%s", strings.ReplaceAll(f.Value, "\n", "\n"+strings.Repeat(" ", len(in)+15)))
	}
	p.pairs(in, "%arguments", st.Arguments)
	p.script(in, "%pre", st.Pre, "on this host before anything else, by ")
	p.script(in, "%setup", st.Setup, "on this host, by ")
	for _, f := range st.Files {
		from := "this host"
		if f.From != "" {
			from = fmt.Sprintf("stage %q", f.From)
		}
		p.row(in, "%files", "line %d, from %s", f.Line, from)
		p.entries(in, f.Entries)
	}
	p.script(in, "%post", st.Post, "in the tree, by ")
	p.script(in, "%environment", st.Environment, "")
	p.script(in, "%runscript", st.RunScript, "")
	p.script(in, "%startscript", st.StartScript, "")
	p.script(in, "%test", st.Test, "")
	p.script(in, "%help", st.Help, "")
	p.pairs(in, "%labels", st.Labels)
	for _, a := range st.Apps {
		p.app(in, a)
	}
}

func (p *printer) app(in string, a App) {
	p.row(in, "app "+a.Name, "line %d", a.Line)
	in += "  "
	p.script(in, "%appinstall", a.Install, "")
	p.script(in, "%appenv", a.Env, "")
	p.script(in, "%apprun", a.Run, "")
	p.script(in, "%appstart", a.Start, "")
	p.script(in, "%apptest", a.Test, "")
	p.script(in, "%apphelp", a.Help, "")
	if len(a.Files) > 0 {
		p.row(in, "%appfiles", "")
		p.entries(in, a.Files)
	}
	p.pairs(in, "%applabels", a.Labels)
}

// script prints one script. by says where the script runs and ends in "by ". It is empty for
// scripts whose arguments are not for /bin/sh.
func (p *printer) script(in, name string, s *Script, by string) {
	if s == nil {
		return
	}
	switch {
	case by != "":
		by = ", " + by + strings.Join(s.Shell(), " ")
	case len(s.Args) > 0:
		by = ", arguments " + strings.Join(s.Args, " ")
	}
	p.row(in, name, "line %d, %s%s", s.Line, count(strings.Count(s.Body, "\n"), "line"), by)
}

func (p *printer) entries(in string, entries []FileEntry) {
	for _, e := range entries {
		dst := e.Dst
		if dst == "" {
			dst = "the same path"
		}
		p.printf("%s    %s -> %s\n", in, e.Src, dst)
	}
}

func (p *printer) pairs(in, name string, pairs []Pair) {
	if len(pairs) == 0 {
		return
	}
	p.row(in, name, "")
	for _, pair := range pairs {
		p.printf("%s    %s = %s\n", in, pair.Key, pair.Value)
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

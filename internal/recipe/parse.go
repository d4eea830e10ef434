package recipe

import (
	"fmt"
	"slices"
	"strings"

	"netroot/internal/nearest"
)

// Parse reads a definition file. Name stands in messages and in the Recipe; no
// file of that name is opened. The error is an *Error, the first one found.
func Parse(name string, src []byte, opt Options) (*Recipe, error) {
	p := &parser{name: name, strict: opt.Strict}
	lines, err := p.lines(src)
	if err != nil {
		return nil, err
	}
	// As in Apptainer, the text must have its shape before build arguments are put in.
	raw, err := (&parser{name: name, strict: opt.Strict}).scan(lines)
	if err != nil {
		return nil, err
	}
	if lines, err = p.substitute(lines, raw, opt.Args); err != nil {
		return nil, err
	}
	if raw, err = p.scan(lines); err != nil {
		return nil, err
	}
	r := &Recipe{Name: name, Source: []byte(strings.Join(lines, "\n") + "\n")}
	for _, rs := range raw {
		st, err := p.stage(rs)
		if err != nil {
			return nil, err
		}
		if err := p.checkNames(r, st); err != nil {
			return nil, err
		}
		r.Stages = append(r.Stages, st)
	}
	slices.SortStableFunc(p.warnings, func(a, b Warning) int { return a.Line - b.Line })
	r.Warnings = p.warnings
	return r, nil
}

func (p *parser) stage(raw *rawStage) (*Stage, error) {
	h, err := p.header(raw.header)
	if err != nil {
		return nil, err
	}
	st := &Stage{Line: raw.line, Header: h}
	st.Name, _ = h.Get("Stage")
	switch agent := st.Agent(); {
	case agent == "":
		return nil, p.fail(raw.line, headerSection, "no Bootstrap line, or an empty one", `begin the recipe with a line such as "Bootstrap: debootstrap"`)
	case agent == strings.ToLower(agent):
	case p.strict:
		return nil, p.fail(h[0].Line, headerSection, fmt.Sprintf("Apptainer knows no agent %q", agent), "write it in lower case")
	default:
		h[0].Value = strings.ToLower(agent)
	}
	for _, b := range raw.sections {
		if err := p.section(st, b); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// checkNames holds a stage against the ones above it.
func (p *parser) checkNames(r *Recipe, st *Stage) error {
	if first, ok := r.Stage(st.Name); ok {
		p.warn(st.Line, headerSection, fmt.Sprintf("a stage %q begins in line %d already", st.Name, first.Line), `"%files from" means the first one`)
	}
	for _, f := range st.Files {
		if f.From == "" {
			continue
		}
		if _, ok := r.Stage(f.From); ok {
			continue
		}
		var names []string
		for _, s := range r.Stages {
			if s.Name != "" {
				names = append(names, s.Name)
			}
		}
		fix := `give an earlier stage that name with "Stage: ` + f.From + `"`
		if like := nearest.Name(f.From, names); like != "" {
			fix = fmt.Sprintf("did you mean %s?", like)
		}
		return p.fail(f.Line, "%files", fmt.Sprintf("no stage %q above this one", f.From), fix)
	}
	return nil
}

// section gives one section its meaning.
func (p *parser) section(st *Stage, b *block) error {
	sec := Section{Name: b.name, Args: b.args, Body: b.text(), Line: b.line}
	if p.strict && len(sec.Body) >= maxStrictSection {
		return p.fail(b.line, b.section(), "the section is larger than 64 KiB, which Apptainer cannot read", "move text into a file and copy that with %files")
	}
	st.Sections = append(st.Sections, sec)
	var err error
	switch {
	case b.name == "files":
		var f FilesBlock
		f, err = p.files(b)
		st.Files = append(st.Files, f)
	case b.name == "labels":
		st.Labels = setPairs(st.Labels, p.labels(b))
	case b.name == "arguments":
		st.Arguments = setPairs(st.Arguments, p.assignments(b))
	case strings.HasPrefix(b.name, "app"):
		err = p.app(st, b, sec)
	default:
		err = p.script(st.script(b.name), b, sec)
	}
	return err
}

// script returns where the script of a section is kept.
func (st *Stage) script(name string) **Script {
	switch name {
	case "pre":
		return &st.Pre
	case "setup":
		return &st.Setup
	case "post":
		return &st.Post
	case "environment":
		return &st.Environment
	case "runscript":
		return &st.RunScript
	case "startscript":
		return &st.StartScript
	case "test":
		return &st.Test
	case "help":
		return &st.Help
	}
	panic("recipe: no script section " + name)
}

func (a *App) script(name string) **Script {
	switch name {
	case "appinstall":
		return &a.Install
	case "appenv":
		return &a.Env
	case "apprun":
		return &a.Run
	case "appstart":
		return &a.Start
	case "apptest":
		return &a.Test
	case "apphelp":
		return &a.Help
	}
	panic("recipe: no app script section " + name)
}

// script adds a section to a script that may have begun in an earlier one.
func (p *parser) script(to **Script, b *block, sec Section) error {
	args := strings.Fields(p.uncomment(sec.Args))
	if i := slices.Index(args, "-c"); i >= 0 && i+1 == len(args) && slices.Contains([]string{"pre", "setup", "post"}, b.name) {
		return p.fail(b.line, b.section(), "-c names no program", "write for example -c /bin/bash")
	}
	if *to == nil {
		*to = &Script{Line: b.line, Bare: p.strict}
	}
	(*to).Body += sec.Body
	if len(args) > 0 {
		(*to).Args = args
	}
	return nil
}

// app adds a section to an app. The name of the app is its first argument.
func (p *parser) app(st *Stage, b *block, sec Section) error {
	args := sec.Args
	if !p.strict { // Apptainer takes the whole word for the name, '#' and all
		args = p.uncomment(args)
	}
	words := strings.Fields(args)
	if len(words) == 0 {
		return p.fail(b.line, b.section(), "no name of an app", fmt.Sprintf("write %%%s NAME", b.name))
	}
	name := words[0]
	if strings.Contains(name, "/") || name == "." || name == ".." {
		return p.fail(b.line, b.section(), fmt.Sprintf("%q cannot name an app, whose directory has that name", name), "leave out the path")
	}
	i := slices.IndexFunc(st.Apps, func(a App) bool { return a.Name == name })
	if i < 0 {
		i = len(st.Apps)
		st.Apps = append(st.Apps, App{Name: name, Line: b.line})
	}
	app := &st.Apps[i]
	switch b.name {
	case "appfiles":
		entries, err := p.entries(b)
		app.Files = append(app.Files, entries...)
		return err
	case "applabels":
		app.Labels = setPairs(app.Labels, p.labels(b))
		return nil
	}
	sec.Args = strings.Join(words[1:], " ")
	return p.script(app.script(b.name), b, sec)
}

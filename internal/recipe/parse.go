package recipe

import (
	"fmt"
	"slices"
	"strings"
)

// Parse parses a definition file. name is used in messages and in the Recipe; Parse opens no file.
// The error is an *Error for the first problem that is found.
func Parse(name string, src []byte, opt Options) (*Recipe, error) {
	p := &parser{name: name, strict: opt.Strict}
	lines, err := p.lines(src)
	if err != nil {
		return nil, err
	}
	written := text(lines)
	// As in Apptainer, the text is split into sections before build arguments are replaced.
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
	r := &Recipe{Name: name, Source: text(lines), Written: written}
	for _, rs := range raw {
		st, err := p.stage(rs)
		if err != nil {
			return nil, err
		}
		if first, ok := r.Stage(st.Name); ok {
			p.warn(st.Line, headerSection, fmt.Sprintf("stage %q already begins in line %d", st.Name, first.Line), `"%files from" uses the first one`)
		}
		r.Stages = append(r.Stages, st)
		if st.Name != "" {
			p.earlier = append(p.earlier, st.Name)
		}
	}
	slices.SortStableFunc(p.warnings, func(a, b Warning) int { return a.Line - b.Line })
	r.Warnings = p.warnings
	return r, nil
}

func text(lines []string) []byte { return []byte(strings.Join(lines, "\n") + "\n") }

func (p *parser) stage(raw *rawStage) (*Stage, error) {
	h, err := p.header(raw.header)
	if err != nil {
		return nil, err
	}
	st := &Stage{Line: raw.line, Header: h}
	st.Name, _ = h.Get("Stage")
	switch agent := st.Agent(); {
	case agent == "":
		return nil, p.fail(raw.line, headerSection, "there is no Bootstrap line, or it is empty", `begin the recipe with a line such as "Bootstrap: debootstrap"`)
	case agent == strings.ToLower(agent):
	case p.strict:
		return nil, p.fail(h[0].Line, headerSection, fmt.Sprintf("Apptainer has no agent %q", agent), "write it in lower case")
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

// section interprets one section.
func (p *parser) section(st *Stage, b *block) error {
	sec := Section{Name: b.name, Args: b.args, Body: b.text(), Line: b.line}
	if p.strict && len(sec.Body) >= maxStrictSection {
		return p.fail(b.line, b.section(), "the section is larger than 64 KiB, which Apptainer cannot read", "move text into a file and copy the file with %files")
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

// script returns the field for the script of a section.
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

// script adds a section to a script, which may have begun in an earlier section.
func (p *parser) script(to **Script, b *block, sec Section) error {
	args := strings.Fields(p.uncomment(sec.Args))
	if i := slices.Index(args, "-c"); i >= 0 && i+1 == len(args) && slices.Contains([]string{"pre", "setup", "post"}, b.name) {
		return p.fail(b.line, b.section(), "-c requires a program", "write, for example, -c /bin/bash")
	}
	if *to == nil {
		*to = &Script{Line: b.line, Bare: p.strict}
	}
	(*to).Append(sec.Body)
	if len(args) > 0 {
		(*to).Args = args
	}
	return nil
}

// app adds a section to an app. The name of the app is its first argument.
func (p *parser) app(st *Stage, b *block, sec Section) error {
	args := sec.Args
	if !p.strict { // Apptainer takes the whole word as the name, including '#'
		args = p.uncomment(args)
	}
	words := strings.Fields(args)
	if len(words) == 0 {
		return p.fail(b.line, b.section(), "the name of the app is missing", fmt.Sprintf("write %%%s NAME", b.name))
	}
	name := words[0]
	if strings.Contains(name, "/") || name == "." || name == ".." {
		return p.fail(b.line, b.section(), fmt.Sprintf("%q cannot name an app, because the app's directory has that name", name), "remove the path")
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

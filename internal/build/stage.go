package build

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"netroot/internal/bootstrap"
	"netroot/internal/recipe"
	"netroot/internal/sandbox"
	"netroot/internal/term"
)

// stage makes one stage's tree: %pre, the agent, %files from other stages,
// %setup, %files, %post, %test, in Apptainer's order.
func (b *builder) stage(ctx context.Context, i int) error {
	st := b.opt.Recipe.Stages[i]
	name := stageName(b.opt.Recipe, i)
	b.tree = filepath.Join(b.ws.dir, fmt.Sprintf("stage%d", i+1))
	if err := os.Mkdir(b.tree, 0o755); err != nil {
		return err
	}
	if st.Name != "" {
		b.trees[st.Name] = b.tree
	}
	host := sandbox.HostEnviron(os.Environ(), b.tree, st.Header)
	steps := []struct {
		script *recipe.Script
		name   string
		run    func(context.Context, io.Writer) error
	}{
		{st.Pre, "%pre", func(ctx context.Context, w io.Writer) error { return b.onHost(ctx, st.Pre, "%pre", host, w) }},
		{nil, "bootstrap", func(ctx context.Context, w io.Writer) error { return b.bootstrap(ctx, st, w) }},
		{nil, "%files from", func(context.Context, io.Writer) error { return b.copyFiles(st, true) }},
		{st.Setup, "%setup", func(ctx context.Context, w io.Writer) error { return b.onHost(ctx, st.Setup, "%setup", host, w) }},
		{nil, "%files", func(context.Context, io.Writer) error { return b.copyFiles(st, false) }},
		{st.Post, "%post", func(ctx context.Context, w io.Writer) error { return b.inTree(ctx, st, st.Post, "%post", w) }},
		{st.Test, "%test", func(ctx context.Context, w io.Writer) error { return b.inTree(ctx, st, st.Test, "%test", w) }},
	}
	for _, s := range steps {
		if strings.HasPrefix(s.name, "%files") && !hasFiles(st, s.name == "%files from") {
			continue
		}
		if s.script == nil && !strings.HasPrefix(s.name, "%files") && s.name != "bootstrap" || s.name == "%test" && b.opt.NoTest {
			continue
		}
		detail := ""
		if s.name == "bootstrap" {
			detail = describe(st)
		}
		err := b.phase(s.name, join(name, detail), func(p *term.Phase) error {
			return s.run(ctx, io.MultiWriter(b.log, lastLine(p)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func hasFiles(st *recipe.Stage, from bool) bool {
	for _, f := range st.Files {
		if (f.From != "") == from && len(f.Entries) > 0 {
			return true
		}
	}
	return false
}

// describe names the agent and what it is to bring.
func describe(st *recipe.Stage) string {
	for _, key := range []string{"OSVersion", "From", "MirrorURL"} {
		if v, ok := st.Header.Get(key); ok && v != "" {
			return st.Agent() + " " + v
		}
	}
	return st.Agent()
}

func (b *builder) bootstrap(ctx context.Context, st *recipe.Stage, log io.Writer) error {
	agent, err := bootstrap.For(st.Agent())
	if err != nil {
		return err
	}
	if err := agent(ctx, bootstrap.Job{Root: b.tree, Stage: st, Dir: b.opt.Dir, Log: log, Env: os.Environ()}); err != nil {
		return err
	}
	// Sections may append to $APPTAINER_ENVIRONMENT, which lies here.
	return os.MkdirAll(filepath.Join(b.tree, ".singularity.d", "env"), 0o755)
}

func (b *builder) onHost(ctx context.Context, script *recipe.Script, name string, env []string, log io.Writer) error {
	h := sandbox.Host{Dir: b.opt.Dir, Env: env, Stdout: log, Stderr: log}
	return h.RunScript(ctx, *script, name)
}

func (b *builder) inTree(ctx context.Context, st *recipe.Stage, script *recipe.Script, name string, log io.Writer) error {
	s := sandbox.Sandbox{Root: b.tree, Env: sandbox.Environ(os.Environ(), st.Header), Stdout: log, Stderr: log}
	return s.RunScript(ctx, *script, name)
}

// lineWriter shows the last line that was printed beside the running phase.
type lineWriter struct {
	phase *term.Phase
	part  []byte
}

func lastLine(p *term.Phase) io.Writer { return &lineWriter{phase: p} }

func (w *lineWriter) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' && c != '\r' {
			if len(w.part) < 200 {
				w.part = append(w.part, c)
			}
			continue
		}
		if text := strings.TrimSpace(strings.ToValidUTF8(string(w.part), "?")); text != "" {
			w.phase.Note(text)
		}
		w.part = w.part[:0]
	}
	return len(p), nil
}

package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"netroot/internal/layer"
	"netroot/internal/recipe"
	"netroot/internal/sandbox"
	"netroot/internal/term"
)

// step is one part of a stage, shown as a phase of the build.
type step struct {
	name, detail string
	wanted       bool
	run          func(context.Context, io.Writer) error
}

// stage makes the tree of one stage in Apptainer's order: %pre, the agent and the files that every
// tree has, apps, "%files from" other stages, %setup, %files, %post, metadata, %test.
func (b *builder) stage(ctx context.Context, i int) error {
	st := b.opt.Recipe.Stages[i]
	b.tree = b.stageTree(i)
	if _, taken := b.trees[st.Name]; !taken && st.Name != "" {
		b.trees[st.Name] = b.tree
	}
	name, update := stageName(b.opt.Recipe, i), b.opt.Update && i == len(b.opt.Recipe.Stages)-1
	before := len(b.phases)
	if !b.restored[i] {
		if err := os.Mkdir(b.tree, 0o755); err != nil {
			return err
		}
		if err := b.runSteps(ctx, name, b.beforePost(st, update)); err != nil {
			return err
		}
		if err := b.keepStage(ctx, i, b.phases[before:]); err != nil {
			return err
		}
	}
	err := b.runSteps(ctx, name, b.fromPost(st, update))
	for _, p := range b.phases[before:] {
		b.took[i] += p.Took
	}
	return err
}

// runSteps runs those of a stage's steps that apply.
func (b *builder) runSteps(ctx context.Context, stage string, steps []step) error {
	for _, s := range steps {
		if !s.wanted {
			continue
		}
		err := b.phase(s.name, join(stage, s.detail), func(p *term.Phase) error {
			return s.run(ctx, io.MultiWriter(b.log, lastLine(p)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) stageTree(i int) string {
	return filepath.Join(b.ws.dir, fmt.Sprintf("stage%d", i+1))
}

// beforePost returns the steps of a stage up to %post. With update, the tree starts as a copy of
// the existing tree.
func (b *builder) beforePost(st *recipe.Stage, update bool) []step {
	want := b.opt.Sections
	start, agent := describe(st), st
	if update {
		start, agent = "copy of "+b.opt.Tree, copyOf(b.opt.Tree)
	}
	return []step{
		{"%pre", "", st.Pre != nil && want.has("pre"), func(ctx context.Context, log io.Writer) error {
			return b.onHost(ctx, st, st.Pre, "%pre", log)
		}},
		{"bootstrap", start, true, func(ctx context.Context, log io.Writer) error {
			return b.bootstrap(ctx, agent, log)
		}},
		{"%app", "", len(st.Apps) > 0 && want.has("apps"), func(ctx context.Context, log io.Writer) error {
			return b.inRoot(func(root *os.Root) error {
				c := b.hostCopier(root, log)
				return makeApps(root, st.Apps, func(e recipe.FileEntry) error { return c.copy(ctx, e) })
			})
		}},
		{"%files from", "", hasFiles(st, true) && want.has("files"), func(ctx context.Context, log io.Writer) error {
			return b.copyFiles(ctx, st, true, log)
		}},
		{"%setup", "", st.Setup != nil && want.has("setup"), func(ctx context.Context, log io.Writer) error {
			return b.onHost(ctx, st, st.Setup, "%setup", log)
		}},
		{"%files", "", hasFiles(st, false) && want.has("files"), func(ctx context.Context, log io.Writer) error {
			return b.copyFiles(ctx, st, false, log)
		}},
	}
}

// fromPost returns the steps of a stage from %post on.
func (b *builder) fromPost(st *recipe.Stage, update bool) []step {
	want := b.opt.Sections
	return []step{
		{"%post", "", want.has("post") && st.Post != nil || want.has("apps") && installApps(st.Apps) != "", func(ctx context.Context, log io.Writer) error {
			return b.post(ctx, st, log)
		}},
		{"metadata", "", true, func(context.Context, io.Writer) error {
			m := metadata{
				recipe: b.opt.Recipe, stage: st, sections: want, force: b.opt.Force, update: update,
				image: !update && !b.opt.Strict && isOneOf(st, agentsOfImages), created: b.created, version: b.opt.Version, warn: b.warn,
			}
			return b.inRoot(m.write)
		}},
		{"%test", "", st.Test != nil && b.wantsTest(), func(ctx context.Context, log io.Writer) error {
			return b.test(ctx, log)
		}},
	}
}

func (b *builder) wantsTest() bool { return b.opt.Sections.has("test") && !b.opt.NoTest }

// copyOf returns a stage that starts as a copy of a tree.
func copyOf(tree string) *recipe.Stage {
	return &recipe.Stage{Header: recipe.Header{{Key: "Bootstrap", Value: "localimage"}, {Key: "From", Value: tree}}}
}

func (b *builder) inRoot(do func(*os.Root) error) error {
	root, err := os.OpenRoot(b.tree)
	if err != nil {
		return err
	}
	return errors.Join(do(root), root.Close())
}

func hasFiles(st *recipe.Stage, from bool) bool {
	return slices.ContainsFunc(st.Files, func(f recipe.FilesBlock) bool { return (f.From != "") == from && len(f.Entries) > 0 })
}

// agentsOfTrees are the agents whose tree was already built from a recipe.
var agentsOfTrees = []string{"localimage", "oras"}

// agentsOfImages are the agents that unpack container images.
var agentsOfImages = []string{"docker", "docker-archive", "oci", "oci-archive"}

func isOneOf(st *recipe.Stage, agents []string) bool {
	return slices.Contains(agents, strings.ToLower(st.Agent()))
}

// describe returns the name of the agent and of what it fetches.
func describe(st *recipe.Stage) string {
	for _, key := range []string{"OSVersion", "From", "MirrorURL"} {
		if v, ok := st.Header.Get(key); ok && v != "" {
			return st.Agent() + " " + v
		}
	}
	return st.Agent()
}

func (b *builder) bootstrap(ctx context.Context, st *recipe.Stage, log io.Writer) error {
	if err := b.fill(ctx, st, log); err != nil {
		return err
	}
	if err := b.noteMounts(st); err != nil {
		return err
	}
	return b.inRoot(func(root *os.Root) error {
		if err := baseEnvironment(root, isOneOf(st, agentsOfTrees), b.opt.Strict); err != nil {
			return err
		}
		return writeBase(root, appsBaseEnv, nil, 0o755, true)
	})
}

// umask returns the umask of package sandbox, which explains it; with strict, the umask that
// Apptainer sets.
func (b *builder) umask() os.FileMode {
	if b.opt.Strict {
		return 0o002
	}
	return sandbox.DefaultUmask
}

func (b *builder) onHost(ctx context.Context, st *recipe.Stage, script *recipe.Script, name string, log io.Writer) error {
	h := sandbox.Host{
		Dir: b.opt.Dir, Env: b.hostEnviron(st), Umask: b.umask(),
		Stdout: log, Stderr: log,
	}
	return h.RunScript(ctx, *script, name)
}

// hostEnviron returns the environment of %pre and %setup. With strict it is Apptainer's: the
// variable for exports holds the path inside the tree, which on the host is a path of the host, and
// there is no variable for labels.
func (b *builder) hostEnviron(st *recipe.Stage) []string {
	if !b.opt.Strict {
		return sandbox.HostEnviron(os.Environ(), b.tree, st.Header)
	}
	var env []string
	for _, kv := range sandbox.HostEnviron(os.Environ(), b.tree, nil) {
		switch name, value, _ := strings.Cut(kv, "="); name {
		case "APPTAINER_LABELS", "SINGULARITY_LABELS":
		case "APPTAINER_ENVIRONMENT", "SINGULARITY_ENVIRONMENT":
			env = append(env, name+"="+strings.TrimPrefix(value, b.tree))
		default:
			env = append(env, kv)
		}
	}
	return env
}

// post runs %post, followed by every %appinstall, in one shell. If %post is not a shell script, the
// %appinstall sections get their own shell.
func (b *builder) post(ctx context.Context, st *recipe.Stage, log io.Writer) error {
	var scripts []recipe.Script
	if st.Post != nil && b.opt.Sections.has("post") {
		scripts = append(scripts, *st.Post)
	}
	if text := installApps(st.Apps); text != "" && b.opt.Sections.has("apps") {
		if len(scripts) == 1 && !slices.Contains(scripts[0].Args, "-c") {
			scripts[0].Append(text)
		} else {
			scripts = append(scripts, recipe.Script{Body: text})
		}
	}
	for _, script := range scripts {
		s := sandbox.Sandbox{
			Root: b.tree, Binds: b.opt.Binds, Env: b.environ(st), Umask: b.umask(), Through: throughEnv(b.tree),
			NoSync: true, Stdout: log, Stderr: log,
		}
		if err := s.RunScript(ctx, script, "%post"); err != nil {
			return err
		}
	}
	return nil
}

// environ returns the environment of %post. With strict it leaves out what Apptainer does not set.
func (b *builder) environ(st *recipe.Stage) []string {
	env := sandbox.Environ(os.Environ(), st.Header)
	if !b.opt.Strict {
		return env
	}
	return slices.DeleteFunc(env, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "SINGULARITY_DEFFILE_") || strings.HasSuffix(name, "_ROOTFS")
	})
}

// test runs the %test that is stored in the tree, as apptainer does: the tree is read-only, and the
// exit status of the last command decides. Unlike with apptainer, the script does not see the
// caller's environment.
func (b *builder) test(ctx context.Context, log io.Writer) error {
	s := sandbox.Sandbox{
		Root: b.tree, Name: "%test", Binds: b.opt.Binds, Env: sandbox.Environ(os.Environ(), nil), Umask: b.umask(),
		Through: throughEnv(b.tree), ReadOnly: true, Stdout: log, Stderr: log,
	}
	return s.Run(ctx, []string{"/" + testFile})
}

// throughEnv returns a command prefix that starts commands in a tree as "apptainer exec" does: with
// the environment of the tree's /.singularity.d/env/*.sh. Without a shell in the tree, commands
// keep the caller's environment.
func throughEnv(tree string) []string {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil // running the command reports the error
	}
	defer root.Close()
	if _, err := layer.Resolve(root, "/bin/sh"); err != nil {
		return nil
	}
	return []string{"/bin/sh", "-c", `for f in /.singularity.d/env/*.sh; do [ ! -f "$f" ] || . "$f"; done; unset f; exec "$@"`, "netroot"}
}

// lineWriter shows the last printed line beside the running phase.
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

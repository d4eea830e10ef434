package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netroot/internal/build"
	"netroot/internal/pack"
	"netroot/internal/recipe"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/term"
)

func buildCmd(e *env) *cobra.Command {
	var read recipeFlags
	var opt build.Options
	var sections, binds []string
	var packAs, initramfs string
	var asJSON, noCache bool
	cmd := &cobra.Command{
		Use:   "build LABEL|FILE.def",
		Short: "Build a tree and an image from a recipe",
		Long: `Build runs a recipe and keeps the result: the tree, which stays writable, and an
image of it in the store, which never changes. The label then names the new image.
Older images stay, and machines that run from them are not affected.

The sections run in Apptainer's order: %pre, the bootstrap agent, %app, %files from
other stages, %setup, %files, %post, %test. %pre and %setup run on this host, in the
directory of netroot.yaml; relative names in %files start there too. For a FILE.def
that is not the recipe of a label, that is the working directory. %post and %test
run inside the tree, with its own /proc, /sys, /dev and /tmp. Their output goes to a
log. When one of them fails, the cause is printed, or the end of the log.

With --update the bootstrap agent does not run: the sections run in a copy of the
existing tree. If the recipe is the one from which the tree was built, only %test
runs, and the tree is packed as it is, with the changes of "netroot shell". With
--section or --force the sections run in any case.

--force also replaces a directory that no build has made, and lets the labels and
the help of the recipe replace those that the tree has from its base.

The build keeps what the bootstrap agent installed, and what a stage copies from
others. The next build with the same inputs starts from there. It prints what it
reused and how old that is: newer updates are not in it.

A tree that contains secrets (private keys, passwords, tokens) does not become an
image unless --allow-secret or allow_secrets names them.

SOURCE_DATE_EPOCH in the environment, in seconds since 1970, is the time of the
image and of its files that are younger.

A build that fails, or that Ctrl-C stops, leaves the old tree and the old images as
they were. Of its own it leaves only the log. If no image can be made of a finished
tree, for want of a kernel or because of a secret, the tree is kept unless there is
an older one with an image: netroot shell and exec work in it, and "netroot build
--update" makes an image of it.

With --kernel none, or "kernel: none" in the label, the image has no kernel and no
initramfs. It can be compared, exported and copied, and no machine can boot it.

For a FILE.def that was built before, its name without the suffix stands for it.

Exit status: 0 done, 1 the build failed, 2 usage, configuration or recipe.`,
		Example: `  netroot build debian12
  netroot build recipes/debian.def
  netroot build --update debian12
  netroot build --update debian12 --pack erofs
  netroot build centos8 --build-arg MIRROR=http://mirror.example/centos`,
		Args:              buildArgs,
		Annotations:       map[string]string{jsonEvents: ""},
		ValidArgsFunction: e.completeLabels,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if opt.Sections, err = build.ParseSections(sections); err != nil {
				return usage(fmt.Errorf("--section: %w", err))
			}
			if opt.Binds, err = parseBinds(binds); err != nil {
				return usage(err)
			}
			if err := opt.Allow.Check(); err != nil {
				return usage(fmt.Errorf("--allow-secret: %w", err))
			}
			if opt.Pack, err = packOf(packAs); err != nil {
				return err
			}
			if opt.Initramfs, err = flavourOf(initramfs); err != nil {
				return err
			}
			if cmd.Flags().Changed("kernel") && opt.Kernel == "" {
				return usage(errors.New("--kernel is empty: name a release, or none"))
			}
			return e.build(cmd.Context(), args[0], read, opt, asJSON, noCache)
		},
	}
	read.register(cmd)
	cmd.Flags().StringSliceVar(&sections, "section", nil, "carry out only these `sections`, separated by commas (%post, too, only when it is named)")
	cmd.Flags().BoolVar(&opt.Update, "update", false, "begin with the tree there is; if the recipe is the same, only pack it")
	cmd.Flags().BoolVar(&opt.Force, "force", false, "replace what no build has made or machines use over NFS, and labels and help of the base; update in any case")
	registerBinds(cmd, &binds, "%post and %test")
	cmd.Flags().StringArrayVar((*[]string)(&opt.Allow), "allow-secret", nil, "`path` of a secret that is meant to be in the image; may be repeated")
	cmd.Flags().StringVar(&opt.Kernel, "kernel", "", "the `release` of the kernel to boot, or none for an image that is not for booting (default: the label's `kernel`)")
	cmd.Flags().StringVar(&initramfs, "initramfs", "", "netroot, or dracut to make that of the tree's dracut, too (default: the label's `initramfs`)")
	cmd.Flags().BoolVar(&noCache, "no-cache", false, "have the bootstrap agent and all stages do their work again")
	cmd.Flags().BoolVar(&opt.NoTest, "notest", false, "leave out %test")
	cmd.Flags().StringVar(&packAs, "pack", "", "pack the root as `format`: squashfs, erofs, erofs-uncompressed or auto (default: as the label says)")
	cmd.Flags().IntVar(&opt.Level, "level", 0, "compression `level` of the packed root (default: a good one)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print progress and result as JSON, an object a line")
	return cmd
}

// buildArgs expects one label or definition file. Apptainer names the image before the file.
func buildArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 2 && strings.HasSuffix(args[1], ".def") {
		return usage(fmt.Errorf("netroot build keeps its image in the store and has no file to write, such as %s: run \"netroot build %s\"", args[0], args[1]))
	}
	return oneArg("label or definition file")(cmd, args)
}

func (e *env) build(ctx context.Context, arg string, read recipeFlags, opt build.Options, asJSON, noCache bool) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	l, err := label(cfg, arg)
	if err != nil {
		return err
	}
	out := term.Detect(e.stdout, os.Getenv)
	out.JSON = asJSON
	opt.Progress = term.New(e.stdout, out)
	if l.Recipe == "" {
		return usage(fmt.Errorf("it is not known from which recipe the tree of %s was built: name the FILE.def", l.Name))
	}
	if !isRecipe(arg) && cfg.Labels[l.Name] == nil {
		fmt.Fprintf(e.stderr, "netroot: the recipe of %s is %s\n", l.Name, l.Recipe)
	}
	r, err := read.read(e, l.Recipe, l.BuildArgs)
	if err != nil {
		return err
	}
	opt.Label, opt.Recipe, opt.RecipeFile, opt.Tree = l.Name, r, l.Recipe, l.Tree
	opt.Kernel = cmp.Or(opt.Kernel, l.Kernel)
	if opt.Pack == "" {
		opt.Pack = pack.Method(l.Pack)
	}
	opt.Transport, opt.LogDir, opt.Dir = l.Transport, cfg.Logs(), recipeDir(cfg, l)
	opt.Initramfs = cmp.Or(opt.Initramfs, l.Initramfs)
	if opt.Init, err = initPath(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("building needs root: a tree has files of many owners, device nodes and mounts; run it with sudo")
	}
	if opt.Store, err = store.Create(cfg.Images()); err != nil {
		return err
	}
	opt.Strict, opt.Version = read.strict, version
	opt.Allow = append(opt.Allow, l.AllowSecrets...)
	if !noCache {
		opt.Cache = openCache(cfg)
	}
	result, err := build.Run(ctx, opt)
	if wrong, ok := errors.AsType[*recipe.Error](err); ok && wrong.File == r.Name {
		return usage(err)
	}
	if err != nil {
		e.explain(ctx, err, arg)
		return err
	}
	e.tellCmdline(l.Cmdline, l.Tree)
	if asJSON {
		return term.JSONLine(e.stdout, result)
	}
	return printResult(e.stdout, result)
}

// recipeDir is where %pre, %setup and relative %files start: beside the
// configuration that names the recipe, or where the caller is.
func recipeDir(cfg *site.Site, l *site.Label) string {
	if _, named := cfg.Labels[l.Name]; named && cfg.Path != "" {
		return filepath.Dir(cfg.Path)
	}
	dir, err := os.Getwd()
	if err != nil {
		return filepath.Dir(l.Recipe)
	}
	return dir
}

// explain shows what the failing part of a build printed last, if that says more than the error,
// and what can be done with a tree that was kept.
func (e *env) explain(ctx context.Context, err error, arg string) {
	failed, ok := errors.AsType[*build.Error](err)
	if !ok {
		return
	}
	if failed.Kept != "" {
		fmt.Fprintf(e.stderr, "\nthe tree is finished and kept in %s, without an image\n"+
			"  \"netroot shell %[2]s\" and \"netroot exec %[2]s -- COMMAND\" work in it\n"+
			"  \"netroot build --update %[2]s\" makes an image of it when the cause is removed, \"--kernel none\" one that is not for booting\n", failed.Kept, arg)
	}
	if ctx.Err() != nil || failed.Cause != "" || len(failed.Tail) == 0 {
		return
	}
	width := term.Columns(e.stderr)
	fmt.Fprint(e.stderr, "\n"+term.Wrap(fmt.Sprintf("the end of what %s printed (all of it: %s):\n", failed.Phase, failed.Log), width, ""))
	for _, line := range failed.Tail {
		fmt.Fprintln(e.stderr, term.Wrap("  | "+line, width, "|   "))
	}
	fmt.Fprintln(e.stderr)
}

func printResult(w io.Writer, r *build.Result) error {
	im := r.Image
	packages, err := im.Packages()
	if err != nil {
		return err
	}
	rows := [][2]string{
		{"image", strings.TrimSuffix(im.Name()+", "+im.Config.System, ", ")},
		{"kernel", cmp.Or(im.Config.KernelRelease, notForBooting)},
		{"tree", fmt.Sprintf("%s, %s, %d packages", r.Tree, term.Size(r.TreeSize), len(packages))},
	}
	for _, part := range im.Manifest.Layers {
		if part.Annotations[store.AnnotationRole] == string(store.RolePackages) {
			continue // counted above
		}
		rows = append(rows, [2]string{part.Annotations[store.AnnotationRole], term.Size(part.Size)})
	}
	var slow []string
	for _, p := range r.Phases {
		if p.Took >= time.Second {
			slow = append(slow, p.Name+" "+term.Duration(p.Took))
		}
	}
	for _, reused := range r.Reused {
		rows = append(rows, [2]string{"reused", reused.String()})
	}
	took := term.Duration(r.Took)
	if len(slow) > 0 {
		took += " (" + strings.Join(slow, ", ") + ")"
	}
	rows = append(rows, [2]string{"time", took})
	fmt.Fprintln(w)
	return term.Facts(w, rows, term.Columns(w))
}

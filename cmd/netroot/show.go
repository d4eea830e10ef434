package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/build"
	"netroot/internal/recipe"
)

func showCmd(e *env) *cobra.Command {
	var flags recipeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE.def|LABEL",
		Short: "Print what netroot understands of a recipe",
		Long: `Show reads an Apptainer or Singularity definition file and prints how netroot
understands it: the stages with their headers, the lines of each section and the
program that runs it, files and labels, with the build arguments filled in. It runs
nothing of the file and builds nothing.

On standard error it says why a build would fail: an agent that is unknown or not
built in, with what to use instead, and sources of %files that do not exist. It
looks for them where "netroot build" would, and warns of a recipe that seems to
install no kernel.

Exit status: 0 done, 1 a build would fail, 2 usage, or the file is not a recipe.`,
		Example: `  netroot show recipes/debian.def
  netroot show --build-arg SUITE=trixie --json node.def
  netroot show --strict node.def        # would Apptainer take it?`,
		Args: oneArg("recipe"),
		RunE: func(_ *cobra.Command, args []string) error {
			return e.show(args[0], flags, asJSON)
		},
	}
	cmd.ValidArgsFunction = e.completeLabels
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, with the text of every section and the warnings")
	return cmd
}

// shownRecipe is a recipe with what is known about its build.
type shownRecipe struct {
	*recipe.Recipe
	Problems []recipe.Error `json:"problems,omitempty"`
}

func (e *env) show(arg string, flags recipeFlags, asJSON bool) error {
	path, opt := arg, build.Options{Dir: "."}
	var args map[string]string
	// A configuration with an error in it does not keep a file from being shown.
	cfg, err := e.config()
	if err == nil {
		if l, labelErr := label(cfg, arg); labelErr == nil && l.Recipe != "" {
			path, args, opt.Dir, opt.Kernel = l.Recipe, l.BuildArgs, recipeDir(cfg, l), l.Kernel
		} else if !isRecipe(arg) {
			return labelErr
		}
	}
	if isRecipe(arg) {
		path = arg
	}
	r, err := flags.read(e, path, args)
	if err != nil {
		return err
	}
	opt.Recipe, opt.Strict = r, flags.strict
	found := build.Check(opt)
	for _, w := range found.Warnings {
		e.say("%s (warning)", w)
	}
	r.Warnings = append(r.Warnings, found.Warnings...)
	if asJSON {
		err = e.json(shownRecipe{r, found.Problems})
	} else {
		err = r.Print(e.stdout)
	}
	if err != nil {
		return err
	}
	for i := range found.Problems {
		e.say("%v", &found.Problems[i])
	}
	if len(found.Problems) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

// recipeFlags are the flags of every verb that reads a recipe.
type recipeFlags struct {
	strict  bool
	args    []string
	argFile string
}

func (f *recipeFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.strict, "strict", false, "accept only what Apptainer accepts")
	cmd.Flags().StringArrayVar(&f.args, "build-arg", nil, "`NAME=VALUE`: the value of {{ NAME }} in the recipe; may be repeated")
	cmd.Flags().StringVar(&f.argFile, "build-arg-file", "", "`file` of NAME=VALUE lines; --build-arg wins")
}

// read parses a definition file and prints its warnings. Build arguments come
// from defaults, then from --build-arg-file, then from --build-arg: the last
// word counts.
func (f *recipeFlags) read(e *env, path string, defaults map[string]string) (*recipe.Recipe, error) {
	args := make(map[string]string)
	maps.Copy(args, defaults)
	warnings, err := f.buildArgs(args)
	if err != nil {
		return nil, usage(err)
	}
	src, err := readText(path)
	if err != nil {
		return nil, usage(fmt.Errorf("cannot read the recipe: %w", err))
	}
	r, err := recipe.Parse(path, src, recipe.Options{Strict: f.strict, Args: args})
	if err != nil {
		return nil, usage(err)
	}
	for _, w := range append(warnings, r.Warnings...) {
		e.say("%s (warning)", w)
	}
	return r, nil
}

// maxText bounds the bytes of a file that people write, far above what anybody does.
const maxText = 16 << 20

// readText reads a file that people write. An image or a device that was named in its place is
// refused before it fills the memory.
func readText(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(text) > maxText {
		err = fmt.Errorf("%s has more than %d MiB: it is not a text that netroot reads", path, maxText>>20)
	}
	return text, err
}

var buildArgName = regexp.MustCompile(`^\w+$`)

// buildArgs adds what the flags say to args.
func (f *recipeFlags) buildArgs(args map[string]string) ([]recipe.Warning, error) {
	var warnings []recipe.Warning
	if f.argFile != "" {
		src, err := readText(f.argFile)
		if err != nil {
			return nil, fmt.Errorf("--build-arg-file: %w", err)
		}
		fromFile, skipped, err := recipe.ParseArgs(f.argFile, src)
		if err != nil {
			return nil, err
		}
		warnings = skipped
		maps.Copy(args, fromFile)
	}
	for _, arg := range f.args {
		name, value, ok := strings.Cut(arg, "=")
		if !ok || !buildArgName.MatchString(name) {
			return nil, fmt.Errorf("--build-arg %q is not NAME=VALUE", arg)
		}
		args[name] = value
	}
	return warnings, nil
}

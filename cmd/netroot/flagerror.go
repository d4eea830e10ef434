package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"netroot/internal/nearest"
)

// flagError says in our words what is wrong with the flags of a command line. Those of pflag name
// functions of Go's library.
func flagError(cmd *cobra.Command, err error) error {
	help := fmt.Sprintf("; \"%s --help\" lists them", cmd.CommandPath())
	if e := (*pflag.NotExistError)(nil); errors.As(err, &e) {
		if e.GetSpecifiedShortnames() != "" {
			return usage(fmt.Errorf("unknown option -%s of %s%s", e.GetSpecifiedName(), cmd.CommandPath(), help))
		}
		if hint := nearest.Hint("--"+e.GetSpecifiedName(), flagNames(cmd)); hint != "" {
			help = hint
		}
		return usage(fmt.Errorf("unknown option --%s of %s%s", e.GetSpecifiedName(), cmd.CommandPath(), help))
	}
	if e := (*pflag.ValueRequiredError)(nil); errors.As(err, &e) {
		what, _ := pflag.UnquoteUsage(e.GetFlag())
		return usage(fmt.Errorf("--%s requires a value: give --%[1]s %s", e.GetFlag().Name, what))
	}
	if e := (*pflag.InvalidValueError)(nil); errors.As(err, &e) {
		return usage(fmt.Errorf("--%s %q: %s", e.GetFlag().Name, e.GetValue(), valueProblem(e)))
	}
	return usage(err)
}

// flagNames are the options of a command, with their dashes.
func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, "--"+f.Name)
		}
	})
	return names
}

// valueProblem says what a value should have been.
func valueProblem(e *pflag.InvalidValueError) string {
	switch e.GetFlag().Value.Type() {
	case "bool":
		return "it must be true or false"
	case "uint16":
		return fmt.Sprintf("it must be a number from 0 to %d", math.MaxUint16)
	case "int":
		return "it must be a number"
	}
	why := e.Unwrap()
	if number := (*strconv.NumError)(nil); errors.As(why, &number) {
		why = number.Err
	}
	return why.Error()
}

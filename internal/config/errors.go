package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxErrors is the number of mistakes that are named of a file.
const maxErrors = 10

// Errors are the mistakes of one file, in the order of its lines.
type Errors []*Error

// Error names the first mistakes, each on lines of its own, and how many more there are.
func (e Errors) Error() string {
	var all []string
	for _, one := range e[:min(len(e), maxErrors)] {
		all = append(all, one.Error())
	}
	if more := len(e) - maxErrors; more > 0 {
		all = append(all, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, "\n")
}

// Unwrap returns the mistakes, for errors.As.
func (e Errors) Unwrap() (all []error) {
	for _, one := range e {
		all = append(all, one)
	}
	return all
}

// inOrder returns the mistakes that errors.Join has put together as Errors. One alone, and an error
// of another kind, is returned as it is.
func inOrder(err error) error {
	var all Errors
	if !collect(err, &all) || len(all) == 0 {
		return err
	}
	if len(all) == 1 {
		return all[0]
	}
	slices.SortStableFunc(all, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return all
}

// collect appends the mistakes that err stands for. It reports false if there is another error.
func collect(err error, all *Errors) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			if !collect(one, all) {
				return false
			}
		}
		return true
	}
	one := (*Error)(nil)
	if err != nil && errors.As(err, &one) {
		*all = append(*all, one)
	}
	return err == nil || one != nil
}

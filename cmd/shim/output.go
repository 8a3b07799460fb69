package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/stagelet/stagelet/internal/errs"
)

// form is how -o has things written.
type form string

const (
	formTable form = "table" // for people, as wide as a terminal
	formWide  form = "wide"  // for people, all of it
	formJSON  form = "json"
	formYAML  form = "yaml"
)

func forms() []string {
	return []string{string(formTable), string(formWide), string(formJSON), string(formYAML)}
}

func (f *form) String() string { return string(*f) }

// Type is the word for the value in the help of a flag.
func (f *form) Type() string { return "form" }

// Set takes the forms that there are.
func (f *form) Set(s string) error {
	if !slices.Contains(forms(), s) {
		return errors.New("it is none of " + strings.Join(forms(), ", "))
	}
	*f = form(s)
	return nil
}

// outputFlag declares -o.
func outputFlag(c *cobra.Command, f *form) {
	*f = formTable
	c.Flags().VarP(f, "output", "o", "how it is written: table, wide, json, yaml")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms(), cobra.ShellCompDirectiveNoFileComp)) // it is there
}

// writeList writes rows as -o asks; table gets tabs aligned.
func writeList[T any](w io.Writer, f form, rows []T, table func(io.Writer, []T)) error {
	if rows == nil {
		rows = []T{}
	}
	return writeValue(w, f, rows, table)
}

// writeValue is writeList for one thing.
func writeValue[T any](w io.Writer, f form, v T, table func(io.Writer, T)) error {
	const op = "write output"
	switch f {
	case formJSON:
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case formYAML:
		data, err := yaml.Marshal(v)
		if err == nil {
			_, err = w.Write(data)
		}
		return errs.Wrap(op, "", err)
	case formTable, formWide:
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		table(t, v)
		return t.Flush()
	}
	return errs.New(op, errs.Invalid, string(f), fmt.Errorf("there are %s", strings.Join(forms(), ", ")))
}

// dash stands in a table for what there isn't.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// age is how long ago t was, as a table has it.
func age(t time.Time) string { return time.Since(t).Round(time.Second).String() }

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/pkg/network"
)

// hintCommand says which command may have been meant: what docker, rkt and
// crictl call otherwise, or else what is written nearly so.
func hintCommand(c *cobra.Command, word string) string {
	meant := []string{elsewhere(word)}
	if c.HasParent() || meant[0] == "" {
		c.SuggestionsMinimumDistance = 2 // edits
		meant = c.SuggestionsFor(word)
	}
	if len(meant) == 0 {
		return ""
	}
	return ", did you mean " + strings.Join(meant, " or ") + "?"
}

// elsewhere gives our word for a command of docker, rkt or crictl; "": there
// is none.
func elsewhere(word string) string {
	return map[string]string{
		"cat-manifest": "status -o json", "cp": "export",
		"create": "prepare", "images": "image list", "import": "image import", "info": "config", "inspect": "status -o json",
		"inspecti": "image inspect", "inspectp": "status -o json", "kill": "stop --force", "load": "image import",
		"metadata-service": "serve", "api-service": "serve", "pods": "list", "prune": "gc", "ps": "list", "pull": "fetch",
		"rmi": "image rm", "rmp": "rm", "runp": "run", "save": "image export", "start": "run-prepared", "stopp": "stop",
		"tag": "image tag", "wait": "status --wait",
	}[word]
}

// hintFlag adds to the error of an unknown flag those that have a word of it.
func hintFlag(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
		return err
	}
	var similar []string
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if slices.Contains(strings.Split(f.Name, "-"), unknown.GetSpecifiedName()) {
			similar = append(similar, "--"+f.Name)
		}
	})
	if len(similar) == 0 {
		return err
	}
	return fmt.Errorf("%w, did you mean %s?", err, strings.Join(similar, " or "))
}

// hintNetwork tells a person whose pod finds no network how it runs without one
// that the host's administrator sees to.
func hintNetwork(err error, how string) error {
	if !errors.Is(err, network.ErrNoConfiguration) {
		return err
	}
	return fmt.Errorf("%w (without that, %s)", err, how)
}

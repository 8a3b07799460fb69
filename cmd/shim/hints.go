package main

import (
	"errors"
	"fmt"
	"maps"
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
		meant = nearly(c, word)
	}
	return didYouMean(meant)
}

// nearly gives the commands below c that are written nearly like word.
func nearly(c *cobra.Command, word string) []string {
	c.SuggestionsMinimumDistance = min(2, len(word)/2) // edits
	return c.SuggestionsFor(word)
}

func didYouMean(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return ", did you mean " + strings.Join(words, " or ") + "?"
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

// hintFlag says of an unknown flag which may have been meant: what docker and
// podman call otherwise, what has that word in it, or is written nearly so.
func hintFlag(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	name := unknown.GetSpecifiedName()
	if ours := flagElsewhere(name); ours != "" && c.Flags().Lookup(ours) != nil {
		return fmt.Errorf("%w%s", err, didYouMean([]string{"--" + ours}))
	}
	if len(name) < 2 {
		return err
	}
	similar := map[string]bool{}
	names := &cobra.Command{} // which knows how words are alike
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
			similar["--"+f.Name] = slices.Contains(strings.Split(f.Name, "-"), name)
		}
	})
	for _, n := range nearly(names, name) {
		similar["--"+n] = true
	}
	maps.DeleteFunc(similar, func(_ string, is bool) bool { return !is })
	return fmt.Errorf("%w%s", err, didYouMean(slices.Sorted(maps.Keys(similar))))
}

// flagElsewhere gives our word for a flag of docker and podman; "": there is
// none.
func flagElsewhere(name string) string {
	return map[string]string{
		"add-host": "hosts-entry", "cap-add": "caps-retain", "cap-drop": "caps-remove", "cidfile": "uuid-file-save", "cpus": "cpu",
		"dns-option": "dns-opt", "e": "set-env", "entrypoint": "exec", "env": "set-env", "env-file": "set-env-file", "format": "output",
		"group-add": "supplementary-gids", "n": "tail", "network": "net", "publish": "port", "pull": "pull-policy", "read-only": "readonly-rootfs",
		"security-opt": "seccomp", "tmpfs": "volume", "u": "user", "userns": "private-users", "w": "working-dir", "workdir": "working-dir",
	}[name]
}

// hintImageFlag is hintFlag for what stands behind an image, which may be an
// argument of the app.
func hintImageFlag(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	return fmt.Errorf("%w %s", hintFlag(c, err), argsHint)
}

// argsHint is for those who write arguments as other programs take them.
const argsHint = `(the arguments of an app stand behind "--")`

// hintNetwork tells a person whose pod finds no network how it runs without one
// that the host's administrator sees to.
func hintNetwork(err error, how string) error {
	if !errors.Is(err, network.ErrNoConfiguration) {
		return err
	}
	return fmt.Errorf("%w (without that, %s)", err, how)
}

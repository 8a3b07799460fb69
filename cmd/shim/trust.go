package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func trustCommand(s *settings) *cobra.Command {
	add := trustAddCommand(s)
	c := &cobra.Command{
		Use:   "trust",
		Short: "Say whose images this host runs",
		Long: `Add, list and remove the rules that say who may sign which images. A rule lies
in a file below /etc/stagelet/trustedkeys or, installed with a package, below
/usr/lib/stagelet/trustedkeys; a server that runs sees a change at once.

As rkt's users type it, "stagelet trust --prefix PREFIX [KEY]" is the same as
"stagelet trust add".`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("prefix") && !c.Flags().Changed("all") {
				switch {
				case len(args) > 0:
					return errs.New("trust", errs.Invalid, args[0], errors.New("it is none of the commands add, list, rm and update-root"))
				case c.Flags().Changed("root"): // as rkt had it, with a key
					return new(place).check()
				}
				return c.Help()
			}
			return add.RunE(c, args)
		},
	}
	add.Flags().VisitAll(func(f *pflag.Flag) {
		as := *f
		as.Hidden = true
		c.Flags().AddFlag(&as)
	})
	c.AddCommand(add, trustListCommand(s), trustRemoveCommand(s), trustRootCommand(s))
	return c
}

// place is what the flags say a rule covers.
type place struct {
	prefix, namespace string
	all               bool
}

func (p *place) register(c *cobra.Command) {
	c.Flags().StringVar(&p.prefix, "prefix", "", "images that the rule is for: a registry, a path below it, a repository, a tag")
	c.Flags().BoolVar(&p.all, "all", false, "the rule is for every image")
	c.Flags().StringVar(&p.namespace, "namespace", "", "only for what pods of this Kubernetes namespace ask for")
	c.MarkFlagsMutuallyExclusive("prefix", "all")
}

// check says whether a place was named. Rkt's word for all is what tells us
// where the state of this host is.
func (p *place) check() error {
	if p.prefix == "" && !p.all {
		return errs.New("check flags", errs.Invalid, "--prefix", errors.New("it is needed, or --all for every image (which rkt called --root)"))
	}
	return nil
}

func (p *place) place() trust.Place {
	return trust.Place{Prefix: trust.Prefix(p.prefix), Namespace: p.namespace}
}

// trustDirs gives the directories of rules, that of the administrator first.
func (s *settings) trustDirs() ([]string, error) {
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	if len(config.Trust.Dirs) == 0 {
		return nil, errs.New("find rules", errs.Invalid, "trust.dirs", errors.New("no directory is configured"))
	}
	return config.Trust.Dirs, nil
}

func trustListCommand(s *settings) *cobra.Command {
	var output form
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List all rules",
		Long: `List the rules of all directories, the strongest directory first, with the state
of each: in force; hidden, by a file of its name in a stronger directory; hides,
which only hides others; or broken, which refuses all that it covers until it is
repaired (-o wide says why).`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dirs, err := s.trustDirs()
			if err != nil {
				return err
			}
			rules, err := trust.List(dirs)
			if err != nil {
				return err
			}
			return writeList(c.OutOrStdout(), output, rules, trustTable(output))
		},
	}
	outputFlag(c, &output)
	return c
}

func trustTable(f form) func(io.Writer, []trust.Listed) {
	return func(w io.Writer, rules []trust.Listed) {
		if f == formWide {
			fmt.Fprintln(w, "PREFIX\tNAMESPACE\tNAME\tTRUSTED\tSTATE\tPROBLEM\tFILE")
		} else {
			fmt.Fprintln(w, "PREFIX\tNAMESPACE\tTRUSTED\tSTATE\tFILE")
		}
		for _, r := range rules {
			prefix := string(r.Prefix)
			if prefix == "" {
				prefix = "(every image)"
			}
			if f == formWide {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", prefix, dash(r.Namespace), r.Name, r.Text, ruleState(r), dash(r.Problem), r.Path)
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", prefix, dash(r.Namespace), r.Text, ruleState(r), r.Path)
		}
	}
}

func ruleState(r trust.Listed) string {
	switch {
	case r.Problem != "":
		return "BROKEN"
	case r.Masked:
		return "hidden"
	case r.Mask:
		return "hides"
	}
	return "in force"
}

func trustRemoveCommand(s *settings) *cobra.Command {
	p := &place{}
	c := &cobra.Command{
		Use:     "rm {--prefix PREFIX | --all} NAME",
		Aliases: []string{"remove"},
		Short:   "Take a rule away",
		Long: `Take the rule of that name away: the last element of its file's path, which for
a key is its fingerprint. An installed rule is hidden by an empty file. Images
that are there already are not run any more, unless another rule accepts them.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := p.check(); err != nil {
				return err
			}
			dirs, err := s.trustDirs()
			if err != nil {
				return err
			}
			path, err := trust.Remove(dirs, p.place(), args[0])
			if err == nil {
				fmt.Fprintln(c.OutOrStdout(), path)
			}
			return err
		},
	}
	p.register(c)
	return c
}

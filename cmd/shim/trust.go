package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

func trustCommand(s *settings) *cobra.Command {
	c := &cobra.Command{
		Use:   "trust",
		Short: "Say whose images this host runs",
		Long: `Add, list and remove the rules that say who may sign which images. A rule lies
in a file below /etc/stagelet/trustedkeys or, installed with a package, below
/usr/lib/stagelet/trustedkeys; a server that runs sees a change at once.`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(trustAddCommand(s), trustListCommand(s), trustRemoveCommand(s), trustRootCommand(s))
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
	c.MarkFlagsOneRequired("prefix", "all")
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

// newRule is what the flags of "trust add" say.
type newRule struct {
	place
	rule     trust.Rule
	who      trust.Identity
	since    string
	yes      bool
	fromFile string
}

func trustAddCommand(s *settings) *cobra.Command {
	r := &newRule{}
	c := &cobra.Command{
		Use:   "add {--prefix PREFIX | --all} [FILE]",
		Short: "Trust a key or an identity",
		Long: `Trust whoever has the key in FILE with the images below PREFIX: an OpenPGP key,
in armor or without, or a public key in PEM, as "cosign generate-key-pair" makes
it; "-" reads standard input. Or trust an identity that sigstore certificates
name (--identity, --issuer). Its fingerprint is shown, and has to be confirmed.

Prefixes match whole components: example.com/etc is not example.com/etcd.
Rules add up: whoever is trusted with example.com is trusted with all below it.`,
		Example: `  stagelet trust add --prefix registry.example.com/team cosign.pub
  stagelet trust add --prefix ghcr.io/example --issuer https://token.actions.githubusercontent.com \
    --identity-regexp 'https://github\.com/example/app/\.github/workflows/release\.yml@refs/tags/.*'
  stagelet trust add --prefix registry.example.com/scratch --insecure`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				r.fromFile = args[0]
			}
			dirs, err := s.trustDirs()
			if err != nil {
				return err
			}
			return r.add(dirs[0], c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	r.register(c)
	set := c.Flags()
	set.StringVar(&r.who.Subject, "identity", "", "e-mail address or URI that a certificate has to name")
	set.StringVar(&r.who.SubjectRegexp, "identity-regexp", "", "regular expression that it has to match as a whole")
	set.StringVar(&r.who.Issuer, "issuer", "", "URL of the OpenID provider that has to vouch for the identity")
	set.BoolVar(&r.rule.Insecure, "insecure", false, "take images that nobody signed")
	set.StringVar(&r.rule.Reference, "reference", "", "how the signed reference has to match: exact, repository, any (default exact)")
	set.StringVar(&r.since, "min-signed-at", "", "refuse older signatures: a time as 2026-01-31T00:00:00Z")
	set.BoolVar(&r.rule.TransparencyLog, "transparency-log", false, "a key's signatures need an entry in the log too")
	set.BoolVarP(&r.yes, "yes", "y", false, "don't ask")
	return c
}

// add writes the rule, once somebody confirmed it.
func (r *newRule) add(dir string, in io.Reader, out, ask io.Writer) error {
	written, err := r.compile(in)
	if err != nil {
		return err
	}
	covers := r.prefix
	if r.all {
		covers = "every image"
	}
	if r.namespace != "" {
		covers += " in namespace " + r.namespace
	}
	fmt.Fprintf(ask, "For %s: %s\n", covers, written.Text)
	if !r.yes {
		if r.fromFile == "-" {
			return errs.New("trust", errs.Invalid, "--yes", errors.New("it is needed where standard input is the key"))
		}
		if !confirmed(in, ask) {
			return errs.New("trust", errs.Canceled, covers, errors.New("not confirmed: nothing was changed"))
		}
	}
	path, err := trust.Add(dir, r.place.place(), written)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, path)
	return nil
}

func confirmed(in io.Reader, ask io.Writer) bool {
	fmt.Fprint(ask, "Trust it (yes/no)? ")
	answer, _ := bufio.NewReader(in).ReadString('\n') // no answer is a no
	return strings.EqualFold(strings.TrimSpace(answer), "yes")
}

// compile makes the rule out of the flags. A key with no further terms stays
// the file that it is.
func (r *newRule) compile(in io.Reader) (*trust.NewRule, error) {
	const op = "trust"
	if r.since != "" {
		t, err := time.Parse(time.RFC3339, r.since)
		if err != nil {
			return nil, errs.New(op, errs.Invalid, "--min-signed-at", err)
		}
		r.rule.MinSignedAt = &t
	}
	if r.who != (trust.Identity{}) {
		r.rule.Identity = &r.who
	}
	if r.fromFile == "" {
		if r.rule.Identity == nil && !r.rule.Insecure {
			return nil, errs.New(op, errs.Invalid, "", errors.New("a key file, --identity with --issuer, or --insecure is needed"))
		}
		return trust.WriteRule(r.rule)
	}
	key, err := readAll(in, r.fromFile)
	if err != nil {
		return nil, err
	}
	plain, err := trust.NewKey(key)
	if err != nil || r.rule == (trust.Rule{}) {
		return plain, errs.Wrap(op, r.fromFile, err)
	}
	r.rule.Key = string(key)
	return trust.WriteRule(r.rule)
}

// readAll reads a small file, or standard input.
func readAll(in io.Reader, path string) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, errs.Wrap("read", path, err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, image.MaxDocument+1))
	if err == nil && len(data) > image.MaxDocument {
		err = image.Refuse("read", image.TooLarge, path, "more than %d bytes", image.MaxDocument)
	}
	return data, errs.Wrap("read", path, err)
}

func trustListCommand(s *settings) *cobra.Command {
	var output form
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List all rules",
		Args:    cobra.NoArgs,
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

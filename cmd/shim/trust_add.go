package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/discovery"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// newRule is what the flags of "trust add" say.
type newRule struct {
	place
	rule  trust.Rule
	who   trust.Identity
	since string
	yes   bool
	from  string // file or URL of a key; "": discovery, unless the rule needs none

	insecure  []string
	allowHTTP bool
}

func trustAddCommand(s *settings) *cobra.Command {
	r := &newRule{}
	c := &cobra.Command{
		Use:   "add {--prefix PREFIX | --all} [FILE | URL]",
		Short: "Trust a key or an identity",
		Long: `Trust whoever has the key in FILE, or at the https URL, with the images below
PREFIX: an OpenPGP key, in armor or without, or a public key in PEM, as "cosign
generate-key-pair" makes it; "-" reads standard input. With neither, the web
page of PREFIX is asked where its keys are (ac-discovery-pubkeys). Or trust an
identity that sigstore certificates name (--identity, --issuer). The fingerprint
of a key is shown, with whom it says it belongs to, and has to be confirmed:
compare it with what its owner told you by another way.

Prefixes match whole components: example.com/etc is not example.com/etcd.
Rules add up: whoever is trusted with example.com is trusted with all below it.`,
		Example: `  stagelet trust add --prefix registry.example.com/team cosign.pub
  stagelet trust add --prefix example.com/app
  stagelet trust add --prefix example.com/app https://example.com/keys/release.asc
  stagelet trust add --prefix ghcr.io/example --issuer https://token.actions.githubusercontent.com \
    --identity-regexp 'https://github\.com/example/app/\.github/workflows/release\.yml@refs/tags/.*'
  stagelet trust add --prefix registry.example.com/scratch --insecure`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				r.from = args[0]
			}
			if err := r.check(); err != nil {
				return err
			}
			dirs, err := s.trustDirs()
			if err != nil {
				return err
			}
			web, err := r.web(s)
			if err != nil {
				return err
			}
			return r.add(c.Context(), dirs[0], web, c.InOrStdin(), c.OutOrStdout(), c.ErrOrStderr())
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
	set.StringSliceVar(&r.insecure, "insecure-options", nil, "safeguards to switch off while a key is fetched: tls, http (or pubkey)")
	set.BoolVar(&r.allowHTTP, "insecure-allow-http", false, "rkt's word for --insecure-options=http")
	set.BoolVar(&r.yes, "skip-fingerprint-review", false, "rkt's word for --yes")
	for _, old := range []string{"insecure-allow-http", "skip-fingerprint-review"} {
		_ = set.MarkHidden(old) // defined above
	}
	return c
}

// web gives what keys are fetched with.
func (r *newRule) web(s *settings) (discovery.Finder, error) {
	config, err := s.config()
	if err != nil {
		return discovery.Finder{}, err
	}
	off, err := parseInsecure(r.insecure)
	off.http = off.http || off.pubkey || r.allowHTTP
	return discovery.Finder{Web: registryClient(config, off), PlainHTTP: off.http}, err
}

// add writes the rules that somebody confirms.
func (r *newRule) add(ctx context.Context, dir string, web discovery.Finder, in io.Reader, out, ask io.Writer) error {
	const op = "trust"
	rules, err := r.compile(ctx, web, in)
	if err != nil {
		return err
	}
	if !r.yes && r.from == "-" {
		return errs.New(op, errs.Invalid, "--yes", errors.New("it is needed where standard input is the key"))
	}
	answers, added := bufio.NewReader(in), 0
	for _, rule := range rules {
		fmt.Fprintf(ask, "For %s: %s\n", r.covers(), rule.Text)
		if !r.yes && !confirmed(answers, ask) {
			continue
		}
		path, err := trust.Add(dir, r.place.place(), rule)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, path)
		added++
	}
	if added == 0 {
		return errs.New(op, errs.Canceled, r.covers(), errors.New("not confirmed: nothing was changed"))
	}
	return nil
}

// covers says for a person what the rule is for.
func (r *newRule) covers() string {
	covers := r.prefix
	if r.all {
		covers = "every image"
	}
	if r.namespace != "" {
		covers += " in namespace " + r.namespace
	}
	return covers
}

func confirmed(answers *bufio.Reader, ask io.Writer) bool {
	fmt.Fprint(ask, "Trust it (yes/no)? ")
	answer, _ := answers.ReadString('\n') // no answer is a no
	return strings.EqualFold(strings.TrimSpace(answer), "yes")
}

// compile makes the rules out of the flags: one for each key. A key with no
// further terms stays the file that it is.
func (r *newRule) compile(ctx context.Context, web discovery.Finder, in io.Reader) ([]*trust.NewRule, error) {
	if r.since != "" {
		t, err := time.Parse(time.RFC3339, r.since)
		if err != nil {
			return nil, errs.New("trust", errs.Invalid, "--min-signed-at", err)
		}
		r.rule.MinSignedAt = &t
	}
	if r.who != (trust.Identity{}) {
		r.rule.Identity = &r.who
	}
	if r.from == "" && (r.rule.Identity != nil || r.rule.Insecure) {
		rule, err := trust.WriteRule(r.rule)
		return []*trust.NewRule{rule}, err
	}
	files, err := r.keyFiles(ctx, web, in)
	if err != nil {
		return nil, err
	}
	var all []*trust.NewRule
	for _, file := range files {
		rules, err := file.rules(r.rule)
		if err != nil {
			return nil, err
		}
		all = append(all, rules...)
	}
	return all, nil
}

// keyFile is a file that has keys in it.
type keyFile struct {
	from string // path or URL
	data []byte
}

// rules gives a rule for each key, with the further terms of r.
func (f keyFile) rules(r trust.Rule) (all []*trust.NewRule, err error) {
	keys, err := trust.SplitKeys(f.data)
	if err != nil {
		return nil, errs.Wrap("trust", f.from, err)
	}
	for _, key := range keys {
		rule, err := trust.NewKey(key)
		if err == nil && r != (trust.Rule{}) {
			r.Key = string(key)
			rule, err = trust.WriteRule(r)
		}
		if err != nil {
			return nil, errs.Wrap("trust", f.from, err)
		}
		all = append(all, rule)
	}
	return all, nil
}

// keyFiles gets the files of keys that are meant.
func (r *newRule) keyFiles(ctx context.Context, web discovery.Finder, in io.Reader) (files []keyFile, err error) {
	isURL := strings.HasPrefix(r.from, "https://") || strings.HasPrefix(r.from, "http://")
	switch {
	case isURL:
		data, _, err := web.Web.Page(ctx, r.from, "")
		return []keyFile{{r.from, data}}, err
	case r.from != "":
		data, err := readAll(in, r.from)
		return []keyFile{{r.from, data}}, err
	case r.prefix == "":
		return nil, errs.New("trust", errs.Invalid, "", errors.New("a key file, --identity with --issuer, or --insecure is needed"))
	}
	places, err := web.Keys(ctx, r.prefix)
	if err != nil {
		return nil, errs.New("find keys", errs.KindOf(err), r.prefix, fmt.Errorf("%w. Name a key file, or its URL", err))
	}
	for _, p := range places {
		data, _, err := web.Web.Page(ctx, p.URL, p.ToldBy)
		if err != nil {
			return nil, errs.Wrap("find keys", r.prefix, err)
		}
		files = append(files, keyFile{p.URL, data})
	}
	return files, nil
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

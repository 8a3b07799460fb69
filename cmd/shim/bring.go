package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// pullPolicy says when an image is fetched.
type pullPolicy string

const (
	pullNever   pullPolicy = "never"
	pullMissing pullPolicy = "missing"
	pullAlways  pullPolicy = "always"
)

// Set takes rkt's words too (pflag.Value).
func (p *pullPolicy) Set(s string) error {
	switch pullPolicy(s) {
	case pullNever, pullMissing, pullAlways:
		*p = pullPolicy(s)
	case "new":
		*p = pullMissing
	case "update":
		*p = pullAlways
	default:
		return fmt.Errorf("%q is none of never, missing and always", s)
	}
	return nil
}

func (p *pullPolicy) String() string { return string(*p) }

// Type is what help calls a value.
func (p *pullPolicy) Type() string { return "POLICY" }

// bringFlags are the flags of every command that brings images.
type bringFlags struct {
	policy             pullPolicy
	insecure           []string
	signature          string
	storeOnly, noStore bool
}

// register defines the flags; policy is the default one.
func (f *bringFlags) register(set *pflag.FlagSet, policy pullPolicy) {
	f.policy = policy
	set.Var(&f.policy, "pull-policy", "when to fetch what has a name: never, missing, always")
	set.StringVar(&f.signature, "signature", "", "detached OpenPGP signature of the image's file (default: what lies beside it, with .asc)")
	set.StringSliceVar(&f.insecure, "insecure-options", nil, "safeguards to switch off: "+insecureNames)
	set.BoolVar(&f.storeOnly, "store-only", false, "rkt's word for --pull-policy=never")
	set.BoolVar(&f.noStore, "no-store", false, "rkt's word for --pull-policy=always")
	for _, old := range []string{"store-only", "no-store"} {
		_ = set.MarkHidden(old) // defined above
	}
}

// switches reads --insecure-options.
func (f *bringFlags) switches() (switches, error) { return parseInsecure(f.insecure) }

// bringer brings images into a store, from wherever they are.
type bringer struct {
	images    *store.Store
	rules     *trust.Policy
	off       switches
	policy    pullPolicy
	signature string
	client    *registry.Client
	puller    *stage0.Puller
	progress  io.Writer
}

// open gives the bringer that the flags ask for. The store is one that was
// opened with the same switches (openImagesWith, openNodeWith).
func (f *bringFlags) open(c *config, images *store.Store, progress io.Writer) (*bringer, error) {
	off, err := f.switches()
	if err != nil {
		return nil, err
	}
	policy := f.policy
	switch {
	case f.storeOnly && f.noStore:
		return nil, errs.New("check flags", errs.Invalid, "--store-only", errors.New("it contradicts --no-store"))
	case f.storeOnly:
		policy = pullNever
	case f.noStore:
		policy = pullAlways
	}
	rules, err := loadPolicy(c, off)
	if err != nil {
		return nil, err
	}
	client := registryClient(c, off)
	return &bringer{
		images: images, rules: rules, off: off, policy: policy, signature: f.signature, progress: progress, client: client,
		puller: stage0.NewPuller(images, finder(client), off.list()...),
	}, nil
}

// brought is an image that is there now.
type brought struct {
	*image.Record
	// Name is what it was asked for by, as rules are found by it; its id where
	// that was no name.
	Name string
}

// bringImage gives the one image that an argument means, and fetches it where
// that is needed: an id or the unique beginning of one, a name, a file, a URL.
func (b *bringer) bringImage(ctx context.Context, argument string) (brought, error) {
	all, err := b.bring(ctx, argument)
	if err != nil {
		return brought{}, err
	}
	if len(all) != 1 {
		return brought{}, errs.New("fetch", errs.Invalid, argument,
			fmt.Errorf("it holds %d images: stagelet fetch it, then say which by its name", len(all)))
	}
	return all[0], nil
}

// bring gives all images that an argument means: an archive may hold several.
func (b *bringer) bring(ctx context.Context, argument string) ([]brought, error) {
	w, err := parseWanted(argument)
	if err != nil {
		return nil, err
	}
	switch w.from {
	case inFile:
		return b.fromFile(ctx, w.text)
	case atURL:
		return b.fromURL(ctx, w.text)
	case onlyDiscovery:
		found, err := b.discovered(ctx, w.text)
		return []brought{found}, err
	case onlyStore:
		r, err := b.images.Resolve(w.text)
		if err != nil {
			return nil, err
		}
		return []brought{{r, string(r.ID)}}, nil
	default:
		found, err := b.named(ctx, w)
		return []brought{found}, err
	}
}

// named gives the image of a name, from the store if it is there and still
// accepted.
func (b *bringer) named(ctx context.Context, w wanted) (brought, error) {
	if w.from == anywhere && image.IsIDPrefix(w.text) { // it may be a name too, which is stronger
		r, err := b.images.Resolve(w.text)
		if err == nil {
			if _, isTag := r.Tag(w.text); !isTag {
				return brought{r, string(r.ID)}, nil
			}
		} else if errors.Is(err, errs.Invalid) {
			return brought{}, err
		}
	}
	ref, err := image.ParseRef(w.text)
	if err != nil {
		return brought{}, err
	}
	r, err := b.here(ref, func(*image.Record) bool { return true })
	if err != nil || r != nil {
		return brought{r, ref.String()}, err
	}
	found, err := b.pull(ctx, ref)
	if err != nil && w.from == anywhere && b.mayBeACI(ctx, w.text, ref, err) {
		return b.orDiscover(ctx, w.text, err)
	}
	return found, err
}

// here gives the image of a name from the store, if it is what is meant and
// the pull policy allows it, and the rules of today do; nil: it is to be
// fetched.
func (b *bringer) here(ref image.Ref, meant func(*image.Record) bool) (*image.Record, error) {
	if b.policy == pullAlways {
		return nil, nil
	}
	r, err := b.images.Resolve(ref.String())
	there := err == nil && meant(r)
	switch {
	case there && (b.policy == pullNever || b.images.Recheck(r, ref, trust.Scope{}) == nil):
		return r, nil
	case err != nil && !errors.Is(err, errs.NotFound) && (b.policy == pullNever || !errors.Is(err, errs.Corrupt)):
		return nil, err
	case b.policy == pullNever:
		return nil, errs.New("find image", errs.NotFound, ref.Familiar(), errors.New("no such image here, and --pull-policy=never fetches none"))
	}
	return nil, nil
}

// pull fetches an image from its registry.
func (b *bringer) pull(ctx context.Context, ref image.Ref) (brought, error) {
	if b.signature != "" {
		return brought{}, errs.New("check flags", errs.Invalid, "--signature", errors.New("it is for files: those of a registry's images lie in the registry"))
	}
	bars := newBars(b.progress, ref.Familiar())
	defer bars.end()
	r, err := b.puller.Pull(ctx, stage0.PullRequest{Ref: ref, Progress: bars.layer})
	return brought{r, ref.String()}, err
}

// fromFile imports a file as whoever may write this host's images.
func (b *bringer) fromFile(ctx context.Context, path string) ([]brought, error) {
	i := importing{signature: b.signature, insecure: b.off, resolve: b.resolve}
	return allBrought(i.read(ctx, b.images, path, b.progress))
}

// allBrought gives images by a name that they have.
func allBrought(records []*image.Record, err error) ([]brought, error) {
	if err != nil {
		return nil, err
	}
	all := make([]brought, len(records))
	for n, r := range records {
		all[n] = brought{r, string(r.ID)}
		if len(r.Tags) > 0 {
			all[n].Name = r.Tags[0]
		}
	}
	return all, nil
}

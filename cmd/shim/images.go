package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/registry"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// switches are the safeguards that somebody switches off for one command.
type switches struct {
	image bool // take what nobody signed
	tls   bool // don't check certificates of registries
	http  bool // don't ask for TLS at all

	pubkey bool // keys may come without TLS
}

// insecureNames are the values of --insecure-options.
const insecureNames = "image, tls, http, pubkey, all-fetch (all of them), none"

// parseInsecure reads the values of --insecure-options, which are rkt's.
func parseInsecure(values []string) (switches, error) {
	var i switches
	for _, v := range values {
		switch v {
		case "image":
			i.image = true
		case "tls":
			i.tls = true
		case "http":
			i.http = true
		case "pubkey":
			i.pubkey = true
		case "all-fetch":
			i = switches{image: true, tls: true, http: true, pubkey: true}
		case "none":
			i = switches{}
		default:
			return i, errs.New("check flags", errs.Invalid, "--insecure-options", fmt.Errorf("%q is none of %s", v, insecureNames))
		}
	}
	return i, nil
}

// list gives the options as they stand in the record of an image.
func (i switches) list() (all []string) {
	for _, o := range []struct {
		name string
		set  bool
	}{{"http", i.http}, {"image", i.image}, {"tls", i.tls}} {
		if o.set {
			all = append(all, o.name)
		}
	}
	return all
}

// openImages opens the store with the rules as configured.
func openImages(c *config) (*store.Store, error) { return openImagesWith(c, switches{}) }

func openImagesWith(c *config, off switches) (*store.Store, error) {
	policy, err := loadPolicy(c, off)
	if err != nil {
		return nil, err
	}
	return store.Open(filepath.Join(c.Root, "images"), store.Options{Policy: policy})
}

// loadPolicy gives the rules as configured.
func loadPolicy(c *config, off switches) (*trust.Policy, error) {
	o := trust.Options{Dirs: c.Trust.Dirs, PolicyJSON: c.Trust.PolicyJSON, RegistriesD: c.Trust.RegistriesDir, Fetch: fetchURL}
	if off.image {
		o.AcceptUnsigned = "--insecure-options=image on a command line"
	}
	return trust.LoadPolicy(o)
}

// registryClient asks registries and web servers as configured.
func registryClient(c *config, off switches) *registry.Client {
	always := func(yes bool) func(string) bool { return func(string) bool { return yes } }
	return registry.New(registry.Options{
		CertsDir:    c.Registry.CertsDir,
		Credentials: registry.Credentials{AuthDirs: c.Registry.AuthDirs, DockerConfigs: c.Registry.DockerConfigs},
		PlainHTTP:   always(off.http), SkipVerify: always(off.tls),
		UserAgent: "stagelet/" + version(),
	})
}

// finder finds images in registries.
func finder(client *registry.Client) stage0.Finder {
	return func(ctx context.Context, ref image.Ref, auth *registry.Auth) (*image.Candidate, trust.Evidence, error) {
		candidate, evidence, err := client.Pull(ctx, ref, registry.PullOptions{Auth: auth})
		if err != nil {
			return nil, nil, err
		}
		return candidate, evidence, nil
	}
}

// withImages runs work on the image store as configured.
func withImages(s *settings, work func(*store.Store) error) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	images, err := openImages(config)
	if err != nil {
		return err
	}
	return errors.Join(work(images), images.Close())
}

// chosen gives the images that refs mean; all images when there are none.
func chosen(images *store.Store, refs []string) ([]*image.Record, error) {
	if len(refs) == 0 {
		return images.List()
	}
	var all []*image.Record
	for _, ref := range refs {
		r, err := images.Resolve(ref)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(all, func(o *image.Record) bool { return o.ID == r.ID }) {
			all = append(all, r)
		}
	}
	return all, nil
}

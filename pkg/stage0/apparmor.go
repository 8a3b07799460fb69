package stage0

import (
	"errors"
	"sync"

	"github.com/moby/profiles/apparmor"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// profiles are the AppArmor profiles of the host.
type profiles struct {
	isLoaded func(name string) (bool, error)
	load     func(name string) error // the default profile, under that name

	mu sync.Mutex // one loads, for all
}

func newProfiles() *profiles {
	return &profiles{isLoaded: apparmor.IsLoaded, load: apparmor.InstallDefault}
}

// need makes sure that a profile can be put on an app: the default one is
// loaded when nobody has done so since the host started, any other must be
// there. Who can't look (no securityfs) leaves it to the kernel to say.
func (p *profiles) need(name string) error {
	const op = "find AppArmor profile"
	if name == "" || name == ocispec.Unconfined {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	loaded, err := p.isLoaded(name)
	switch {
	case loaded:
		return nil
	case name == manifest.DefaultAppArmor:
		return errs.Wrap(op, name, p.loadDefault())
	case err != nil:
		return nil // it may be there
	}
	return errs.New(op, errs.NotFound, name, errors.New("it isn't loaded on this host; load it with apparmor_parser"))
}

func (p *profiles) loadDefault() error {
	if err := p.load(manifest.DefaultAppArmor); err != nil {
		return errs.New("load", errs.Unavailable, "", errors.Join(err, errors.New("install the package apparmor, or ask for Unconfined")))
	}
	return nil
}

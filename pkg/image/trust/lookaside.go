package trust

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/stagelet/stagelet/pkg/image"
)

// maxLookaside bounds the signatures of one digest in a lookaside.
const maxLookaside = 16

// lookasideConfig is a file of containers-registries.d(5). What it says of
// writing signatures, and of storing sigstore's as attachments, means nothing
// here: those are always looked for.
type lookasideConfig struct {
	DefaultDocker *lookasideScope            `json:"default-docker"`
	Docker        map[string]*lookasideScope `json:"docker"`
}

type lookasideScope struct {
	Lookaside        string `json:"lookaside"`
	LookasideStaging string `json:"lookaside-staging"`
	SigStore         string `json:"sigstore"` // the old name of lookaside
	SigStoreStaging  string `json:"sigstore-staging"`
	Attachments      *bool  `json:"use-sigstore-attachments"`
}

func (s *lookasideScope) base() string {
	if s.Lookaside != "" {
		return s.Lookaside
	}
	return s.SigStore
}

// lookaside gives the GPG signatures that lie beside the registry, not in it.
func (p *Policy) lookaside(ctx context.Context, ref image.Ref, d image.Digest) *found {
	f := &found{}
	base, err := p.lookasideBase(ref)
	if err != nil {
		f.missing = err
		return f
	}
	if base == "" {
		return f
	}
	repository := strings.TrimPrefix(ref.Repository(), ref.Registry()+"/")
	for n := 1; n <= maxLookaside; n++ {
		where := fmt.Sprintf("%s/%s@%s/signature-%d", strings.TrimSuffix(base, "/"), repository,
			strings.Replace(string(d), ":", "=", 1), n)
		data, err := p.o.Fetch.get(ctx, where, maxPGPSignature)
		if isNone(err) {
			break // they are numbered without gaps
		}
		if err != nil {
			f.fail(where, err)
			break
		}
		f.add(&gpgMessage{where: where, data: data}, nil)
	}
	return f
}

// lookasideBase gives the lookaside of a registry: that of the most specific
// scope; "" when nobody named one.
func (p *Policy) lookasideBase(ref image.Ref) (string, error) {
	if p.o.RegistriesD == "" {
		return "", nil
	}
	merged, err := readRegistriesD(p.o.RegistriesD)
	if err != nil {
		return "", err
	}
	scopes := ancestors(ref)
	for i := len(scopes) - 1; i >= 0; i-- {
		if s := merged.Docker[string(scopes[i])]; s != nil && s.base() != "" {
			return s.base(), nil
		}
	}
	if merged.DefaultDocker != nil {
		return merged.DefaultDocker.base(), nil
	}
	return "", nil
}

// readRegistriesD reads all of the directory's *.yaml. Two that speak of the
// same scope contradict each other.
func readRegistriesD(dir string) (*lookasideConfig, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &lookasideConfig{}, nil
	}
	if err != nil {
		return nil, badFile(dir, err)
	}
	merged := &lookasideConfig{Docker: map[string]*lookasideScope{}}
	for _, e := range files {
		if !strings.HasSuffix(e.Name(), ".yaml") {
			continue
		}
		file := filepath.Join(dir, e.Name())
		data, _, err := readSmall(file, nil)
		if err != nil {
			return nil, badFile(file, err)
		}
		var c lookasideConfig
		if err := yaml.UnmarshalStrict(data, &c); err != nil {
			return nil, badFile(file, err)
		}
		if c.DefaultDocker != nil {
			if merged.DefaultDocker != nil {
				return nil, badFile(file, errors.New("another file has a default-docker too"))
			}
			merged.DefaultDocker = c.DefaultDocker
		}
		for scope, s := range c.Docker {
			if merged.Docker[scope] != nil {
				return nil, badFile(file, fmt.Errorf("another file speaks of %s too", image.Printable(scope)))
			}
			merged.Docker[scope] = s
		}
	}
	return merged, nil
}

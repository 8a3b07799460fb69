package trust

import (
	"os"
	"path/filepath"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
)

// cached is what was read from a file, until the file changes.
type cached[T any] struct {
	path  string
	stamp stamp
	value T
	err   error
}

// get gives what parse made of the file. The caller holds the lock of c.
func (c *cached[T]) get(path string, parse func([]byte) (T, error)) (T, error) {
	var none T
	data, s, err := readSmall(path, func(s stamp) bool { return c.path == path && c.stamp == s })
	if err != nil {
		return none, badFile(path, err)
	}
	if c.path == path && c.stamp == s {
		return c.value, c.err
	}
	c.path, c.stamp, c.err = path, s, nil
	if c.value, err = parse(data); err != nil {
		c.value, c.err = none, badFile(path, err)
	}
	return c.value, c.err
}

// trustedRoot gives the machine's sigstore root.
func (p *Policy) trustedRoot() (root.TrustedMaterial, error) {
	path := p.o.TrustedRoot
	if path == "" {
		var err error
		if path, err = p.files.first(rootFile); err != nil {
			return nil, err
		}
	}
	if path == "" {
		return nil, because(NoTrustRoot, "put one there: stagelet trust update-root FILE")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trusted.get(path, loadRoot)
}

// UpdateTrustedRoot puts a sigstore trusted root into dir, once it was seen to
// be one: the keys of the transparency log and of the authorities change every
// few years. Where data comes from is the caller's to judge: whoever wrote it
// can vouch for any identity.
func UpdateTrustedRoot(dir string, data []byte) (path string, err error) {
	const op = "update trusted root"
	path = filepath.Join(dir, rootFile)
	if _, err := loadRoot(data); err != nil {
		return "", errs.New(op, errs.Invalid, path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", errs.Wrap(op, path, err)
	}
	return path, errs.Wrap(op, path, atomicfile.WriteDurable(path, data, 0o644))
}

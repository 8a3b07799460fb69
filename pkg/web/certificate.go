package web

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
)

// certificate is that of a directory, as a Kubernetes secret of type
// kubernetes.io/tls has it. It is read again whenever it changes; one that
// can't be used leaves the one before in use.
type certificate struct {
	cert, key string // paths

	mu      sync.Mutex
	current *tls.Certificate
	read    [2]time.Time // when the files that current was read from had changed
}

func openCertificate(dir string) (*certificate, error) {
	c := &certificate{cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
	changed, err := c.changed()
	if err == nil {
		err = c.load(changed)
	}
	return c, errs.Wrap("read certificate", dir, err)
}

func (c *certificate) changed() (at [2]time.Time, err error) {
	for i, path := range []string{c.cert, c.key} {
		fi, err := os.Stat(path)
		if err != nil {
			return at, err
		}
		at[i] = fi.ModTime()
	}
	return at, nil
}

func (c *certificate) load(changed [2]time.Time) error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.current, c.read = &pair, changed
	return nil
}

// get is tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changed, err := c.changed(); err == nil && changed != c.read {
		_ = c.load(changed) // half of a pair may be new: the next handshake looks again
	}
	return c.current, nil
}

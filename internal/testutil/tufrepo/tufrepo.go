// Package tufrepo makes TUF repositories for tests, in a directory that can be
// served or read as it is.
package tufrepo

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Repo is a repository with consistent snapshots. One key signs all of it.
type Repo struct {
	// Dir is what to serve.
	Dir string
	// Root is the first root.json.
	Root []byte
	// Expires is when what is published next expires.
	Expires time.Time

	t       testing.TB
	signer  signature.Signer
	root    *metadata.Metadata[metadata.RootType]
	version int64
}

// New makes a repository that has published nothing yet.
func New(t testing.TB) *Repo {
	t.Helper()
	r := &Repo{t: t, Dir: t.TempDir(), Expires: time.Now().Add(24 * time.Hour)}
	key := r.newKey()
	r.root = metadata.Root(r.Expires)
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		r.must(r.root.Signed.AddKey(key, role))
	}
	r.Root = r.writeRoot()
	return r
}

func (r *Repo) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// newKey makes the key that signs from now on.
func (r *Repo) newKey() *metadata.Key {
	r.t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	r.must(err)
	r.signer, err = signature.LoadSigner(private, crypto.Hash(0))
	r.must(err)
	key, err := metadata.KeyFromPublicKey(public)
	r.must(err)
	return key
}

func (r *Repo) write(name string, data []byte) {
	r.t.Helper()
	path := filepath.Join(r.Dir, name)
	r.must(errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)))
}

func (r *Repo) writeRoot() []byte {
	r.t.Helper()
	_, err := r.root.Sign(r.signer)
	r.must(err)
	data, err := r.root.ToBytes(true)
	r.must(err)
	r.write(fmt.Sprintf("%d.root.json", r.root.Signed.Version), data)
	return data
}

// Rotate exchanges the key: what is published later needs the new root.json,
// which the old key vouches for.
func (r *Repo) Rotate() {
	r.t.Helper()
	old := r.signer
	key := r.newKey()
	r.root.Signed.Version++
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		ids := r.root.Signed.Roles[role].KeyIDs
		r.must(r.root.Signed.AddKey(key, role))
		r.must(r.root.Signed.RevokeKey(ids[0], role))
	}
	r.root.ClearSignatures()
	_, err := r.root.Sign(old)
	r.must(err)
	r.writeRoot()
}

// Publish puts a file into the repository, in a new version of all metadata.
func (r *Repo) Publish(name string, data []byte) {
	r.t.Helper()
	r.version++
	file, err := metadata.TargetFile().FromBytes(name, data, "sha256")
	r.must(err)
	r.write(fmt.Sprintf("targets/%s.%s", file.Hashes["sha256"], name), data)

	targets := metadata.Targets(r.Expires)
	targets.Signed.Version, targets.Signed.Targets[name] = r.version, file
	sign(r, targets, fmt.Sprintf("%d.targets.json", r.version))
	snapshot := metadata.Snapshot(r.Expires)
	snapshot.Signed.Version, snapshot.Signed.Meta["targets.json"] = r.version, metadata.MetaFile(r.version)
	sign(r, snapshot, fmt.Sprintf("%d.snapshot.json", r.version))
	timestamp := metadata.Timestamp(r.Expires)
	timestamp.Signed.Version, timestamp.Signed.Meta["snapshot.json"] = r.version, metadata.MetaFile(r.version)
	sign(r, timestamp, "timestamp.json")
}

// Rollback makes the next version the one after that.
func (r *Repo) Rollback(to int64) { r.version = to }

func sign[T metadata.Roles](r *Repo, m *metadata.Metadata[T], name string) {
	r.t.Helper()
	_, err := m.Sign(r.signer)
	r.must(err)
	data, err := m.ToBytes(true)
	r.must(err)
	r.write(name, data)
}

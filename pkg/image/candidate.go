package image

import (
	"context"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Origin says who brought an image.
type Origin string

// The origins.
const (
	// OriginLocal is an administrator of this machine, with a file.
	OriginLocal Origin = "local"
	// OriginRegistry is a registry, over the network.
	OriginRegistry Origin = "registry"
	// OriginRemote is somebody over the network, with a file: from a URL, or
	// uploaded. Nothing but its signature speaks for it.
	OriginRemote Origin = "remote"
)

// Candidate is an image that asks to be taken into a store: whoever can get
// bytes makes one, and the store takes it from there. Nothing in it is
// believed before it was checked.
type Candidate struct {
	Origin Origin
	// Names are the tags that the image is to have.
	Names []Ref
	// Config are the bytes of the configuration.
	Config []byte
	// Manifest are the bytes of the manifest, announced as ManifestType; nil
	// when the image has none (docker save), and the store then makes one.
	Manifest     []byte
	ManifestType string
	// Asked is the reference that somebody asked for; none when local.
	Asked Ref
	// Indexes led to the manifest: each lists the next one, the last the
	// manifest. None when nothing did but the manifest's own reference.
	Indexes []Document
	// Insecure are the safeguards that were switched off to get it, for the
	// record: "image", "tls", "http".
	Insecure []string
	// Source is the repository that the image came from; none when local.
	Source Ref
	// Open gives the bytes of the i-th layer as distributed, lowest first. It
	// may be called from several goroutines, and again; its reader ends when
	// ctx does.
	Open func(ctx context.Context, i int) (io.ReadCloser, error)
	// OpenAt is Open from the offset on, in bytes; nil when only whole layers
	// can be had. With it, what an earlier attempt got is not fetched again.
	OpenAt func(ctx context.Context, i int, offset int64) (io.ReadCloser, error)
	// ACI is the App Container Image that the image was made from; nil: it was
	// none.
	ACI *ACI
	// File is the file that brought the image, where a signature of that file
	// came with it; nil when none did.
	File *SignedFile
	// Download is the file of the web that is the image, without its names;
	// nil: there is none.
	Download *Download
}

// ACI is an App Container Image, as far as a record has to tell of it.
type ACI struct {
	ID       Digest // of the uncompressed file, by sha512 (appc specification, "Image ID")
	Manifest []byte // as it lies in the file
}

// SignedFile is a file that has an OpenPGP signature of its own.
type SignedFile struct {
	// Open gives the bytes as they were transferred; once for each key that may
	// have signed them.
	Open func() (io.ReadCloser, error)
	// Signature is the detached signature, in armor or without.
	Signature []byte
}

// Document is an index as its registry gave it out.
type Document struct {
	MediaType string // as announced
	Data      []byte
}

// Plan is a candidate whose documents fit each other.
type Plan struct {
	*Candidate
	ID      Digest // of the configuration
	Image   *v1.Image
	Digest  Digest       // of the manifest; "" without one
	Parsed  *v1.Manifest // nil without one
	ChainID []Digest
	// IndexDigests are those of Indexes.
	IndexDigests []Digest
}

// Plan checks that configuration and manifest are well-formed, fit each other
// and are made for host.
func (c *Candidate) Plan(host v1.Platform) (*Plan, error) {
	const op = "check image"
	config, err := ParseConfig(c.Config)
	if err != nil {
		return nil, err
	}
	if err := CheckPlatform(host, config); err != nil {
		return nil, err
	}
	p := &Plan{Candidate: c, Image: config, ChainID: ChainIDs(config.RootFS.DiffIDs)}
	if c.Manifest == nil {
		p.ID = digestOf(c.Config)
		return p, nil
	}
	m, err := ParseManifest(c.ManifestType, c.Manifest)
	if err != nil {
		return nil, err
	}
	if err := CheckBytes("configuration", m.Config.Digest, c.Config); err != nil {
		return nil, err
	}
	if m.Config.Size != int64(len(c.Config)) {
		return nil, Refuse(op, Mismatch, "configuration", "%d bytes, the manifest says %d", len(c.Config), m.Config.Size)
	}
	if l, d := len(m.Layers), len(config.RootFS.DiffIDs); l != d {
		return nil, Refuse(op, Mismatch, "manifest", "it has %d layers, the configuration %d diff_ids", l, d)
	}
	p.ID, p.Parsed, p.Digest = m.Config.Digest, m, digestOf(c.Manifest)
	return p, p.checkIndexes()
}

// checkIndexes checks that each index lists what comes after it.
func (p *Plan) checkIndexes() error {
	const op = "check image"
	if n := len(p.Indexes); n > MaxIndexes {
		return Refuse(op, TooLarge, "index", "%d indexes in each other, more than %d", n, MaxIndexes)
	}
	for i, index := range p.Indexes {
		what, below := "manifest", p.Manifest
		if i+1 < len(p.Indexes) {
			what, below = "index", p.Indexes[i+1].Data
		}
		x, err := ParseIndex(index.MediaType, index.Data)
		if err != nil {
			return err
		}
		lists := func(d v1.Descriptor) bool { return d.Digest.Algorithm().FromBytes(below) == d.Digest }
		if !slices.ContainsFunc(x.Manifests, lists) {
			return Refuse(op, Mismatch, "index", "it doesn't list the %s %s", what, digestOf(below))
		}
		p.IndexDigests = append(p.IndexDigests, digestOf(index.Data))
	}
	return nil
}

// Has says whether d is a digest, by whichever algorithm, of the manifest or
// of an index that led to it.
func (p *Plan) Has(d Digest) bool {
	is := func(document []byte) bool { return d.Algorithm().FromBytes(document) == d }
	return is(p.Manifest) || slices.ContainsFunc(p.Indexes, func(x Document) bool { return is(x.Data) })
}

func digestOf(data []byte) Digest { return digest.Canonical.FromBytes(data) }

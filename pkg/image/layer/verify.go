package layer

import (
	"context"
	"errors"
	"io"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

// Proof is what Verify could prove of a layer.
type Proof string

// The proofs, strongest first.
const (
	// ProofDiffID: the layer's tar was put together again, its digest is the
	// diff id; and what the tar says beside contents is as it was unpacked.
	ProofDiffID Proof = "diff id"
	// ProofListing: names, metadata and contents are as they were unpacked.
	// The tar itself can't be had again.
	ProofListing Proof = "listing"
)

// Verify reads all of a layer and checks that it is as it was when it was
// unpacked: nothing changed, added or missing. What isn't, is errs.Corrupt;
// the error names the file where it is known.
func (s *Store) Verify(ctx context.Context, diffID image.Digest) (Proof, error) {
	const op = "verify layer"
	s.forget(diffID) // and read its record again
	info, err := s.Info(diffID)
	if err != nil {
		return "", err
	}
	if info.Tree == "" {
		return "", errs.New(op, errs.Unsupported, string(diffID),
			errors.New("it was unpacked by an older version, which noted nothing to check against; remove and fetch the image again"))
	}
	proof := ProofListing
	if info.Listing == ListMetadata {
		proof = ProofDiffID
		if err := s.WriteTar(ctx, diffID, io.Discard); err != nil {
			return "", errs.Wrap(op, string(diffID), err)
		}
	}
	root, err := sys.OpenDir(s.Tree(diffID))
	if err != nil {
		return "", errs.Wrap(op, string(diffID), err)
	}
	defer root.Close()
	got, err := listTree(ctx, root, info.Listing)
	if err != nil {
		return "", errs.Wrap(op, string(diffID), err)
	}
	if got != info.Tree {
		return "", image.Refuse(op, image.Mismatch, string(diffID),
			"a file was added to %s, removed, or has other metadata than it was unpacked with", s.Tree(diffID))
	}
	return proof, nil
}

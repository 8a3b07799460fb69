package image

import (
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ParseConfig reads the configuration of an image (OCI image-spec, config.md;
// Docker's is the same with more fields) and checks what its layers rely on.
func ParseConfig(data []byte) (*v1.Image, error) {
	const op, what = "parse image", "configuration"
	var c v1.Image
	if err := DecodeDocument(what, data, &c); err != nil {
		return nil, err
	}
	if c.RootFS.Type != "layers" {
		return nil, Refuse(op, WrongFormat, what, "rootfs.type is %s, must be layers", Printable(c.RootFS.Type))
	}
	if n := len(c.RootFS.DiffIDs); n > MaxLayers {
		return nil, Refuse(op, TooLarge, what, "%d layers, more than %d", n, MaxLayers)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := CheckDigest(d); err != nil {
			return nil, Refuse(op, BadDigest, what, "rootfs.diff_ids: %w", err)
		}
	}
	if len(c.History) == 0 {
		return &c, nil
	}
	filled := 0
	for _, h := range c.History {
		if !h.EmptyLayer {
			filled++
		}
	}
	if filled != len(c.RootFS.DiffIDs) {
		return nil, Refuse(op, Mismatch, what, "its history tells of %d layers, its diff_ids of %d", filled, len(c.RootFS.DiffIDs))
	}
	return &c, nil
}

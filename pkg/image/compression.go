package image

import (
	"bufio"
	"bytes"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression is how a tar is packed.
type Compression string

// The compressions.
const (
	AnyCompression Compression = "" // to be seen from the bytes
	Uncompressed   Compression = "none"
	Gzip           Compression = "gzip"
	Zstd           Compression = "zstd"
)

// SniffLen is how many bytes Sniff wants to see.
const SniffLen = 6

// Sniff tells from the first bytes how data is packed. What is packed in a
// way that is known, but not for images, is refused.
func Sniff(magic []byte) (Compression, error) {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return Gzip, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(magic) >= 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}): // a skippable frame first
		return Zstd, nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return "", Refuse("decompress", WrongFormat, "data", "xz: pack it with gzip or zstd instead")
	case bytes.HasPrefix(magic, []byte("BZh")):
		return "", Refuse("decompress", WrongFormat, "data", "bzip2: pack it with gzip or zstd instead")
	}
	return Uncompressed, nil
}

// NewReader gives a reader of what is packed in r; release frees what it
// holds.
func (c Compression) NewReader(r *bufio.Reader) (plain io.Reader, release func(), err error) {
	switch c {
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { _ = z.Close() }, nil
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(MaxZstdWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	default:
		return r, func() {}, nil
	}
}

// Growth is how many bytes n packed ones may become.
func Growth(n int64) int64 { return RatioFree + MaxRatio*n }

// LayerType gives the OCI media type of a layer packed so.
func (c Compression) LayerType() string {
	switch c {
	case Gzip:
		return v1.MediaTypeImageLayerGzip
	case Zstd:
		return v1.MediaTypeImageLayerZstd
	default:
		return v1.MediaTypeImageLayer
	}
}

package spool

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"

	"github.com/stagelet/stagelet/pkg/image"
)

// What a whole file may be packed with beside what its layers may.
const (
	xzPacked    image.Compression = "xz"
	bzip2Packed image.Compression = "bzip2"
)

// maxDictionary bounds the memory that an xz stream may ask for, in bytes:
// what "xz -9" asks for.
const maxDictionary = 64 << 20

// sniff tells from the first bytes how a file is packed.
func sniff(magic []byte) (image.Compression, error) {
	switch {
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return xzPacked, nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2Packed, nil
	}
	return image.Sniff(magic)
}

// reader gives a reader of what is packed in r; release frees what it holds.
func reader(c image.Compression, r *bufio.Reader) (plain io.Reader, release func(), err error) {
	switch c {
	case xzPacked:
		plain, err = xz.NewReader(r, maxDictionary)
		return plain, func() {}, err
	case bzip2Packed:
		return bzip2.NewReader(r), func() {}, nil
	}
	return c.NewReader(r)
}

func isTruncated(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, xz.ErrBuf)
}

func isTooLarge(err error) bool {
	return errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded)
}

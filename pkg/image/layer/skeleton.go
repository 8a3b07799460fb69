package layer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// A skeleton is all of a layer's tar but the contents of the regular files,
// which its tree has: headers, padding, the end. With both, the tar can be put
// together again to the byte, and its digest compared with the diff id that
// the image's configuration, and so its signature, covers.
//
// On disk it is a zstd stream of records. Each starts with a uvarint: a length
// shifted left by one. With the lowest bit 0, as many bytes of the tar follow;
// with 1, as many bytes of the tar are the content of a file, and its
// CRC-32C (4 bytes, little endian), the uvarint length of its path below the
// tree, and its path follow.
const (
	skeletonName   = "skeleton.zst"
	skeletonWindow = 256 << 10
	recordLiteral  = 0
	recordContent  = 1
	literalBytes   = 64 << 10 // of one record, mostly
	// maxSkeleton bounds what is not content in a layer whose skeleton is
	// kept, in bytes.
	maxSkeleton = 512 << 20
)

// recorder passes a tar on to who reads it, and writes its skeleton.
//
// A file whose name is later given to something else is not in the tree: then
// there can be no skeleton (see spoil).
type recorder struct {
	tar  io.Reader
	path string // of the skeleton
	file *os.File
	zip  *zstd.Encoder
	out  *bufio.Writer

	inContent bool   // what is read is content
	literal   []byte // of the tar, not yet written
	total     int64
	spoilt    bool
	err       error
}

func newRecorder(path string, tar io.Reader) (*recorder, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	zip, err := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(skeletonWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &recorder{tar: tar, path: path, file: f, zip: zip, out: bufio.NewWriterSize(zip, literalBytes)}, nil
}

// Read gives the tar.
func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.tar.Read(p)
	if !r.inContent && !r.spoilt {
		r.literal = append(r.literal, p[:n]...)
		if len(r.literal) >= literalBytes {
			r.flush()
		}
	}
	return n, err
}

// content notes that n bytes of the tar, which were read with inContent set,
// are those of the file at path.
func (r *recorder) content(path string, n int64, crc uint32) {
	if r.spoilt || n == 0 {
		return
	}
	r.flush()
	head := binary.AppendUvarint(nil, uint64(n)<<1|recordContent)
	head = binary.LittleEndian.AppendUint32(head, crc)
	head = binary.AppendUvarint(head, uint64(len(path)))
	r.write(append(head, path...))
}

func (r *recorder) flush() {
	if len(r.literal) == 0 {
		return
	}
	r.write(binary.AppendUvarint(nil, uint64(len(r.literal))<<1|recordLiteral))
	r.write(r.literal)
	r.literal = r.literal[:0]
}

func (r *recorder) write(p []byte) {
	if r.total += int64(len(p)); r.total > maxSkeleton {
		r.spoil()
	}
	if r.err == nil && !r.spoilt {
		_, r.err = r.out.Write(p)
	}
}

// spoil gives the skeleton up: the tree doesn't have all contents of the tar.
func (r *recorder) spoil() { r.spoilt, r.literal = true, nil }

// finish completes the skeleton, and says whether there is one.
func (r *recorder) finish() (kept bool, err error) {
	r.flush()
	err = errors.Join(r.err, r.out.Flush(), r.zip.Close(), r.close())
	if err == nil && r.spoilt {
		err = os.Remove(r.path)
	}
	return !r.spoilt, err
}

func (r *recorder) close() error {
	f := r.file
	if f == nil {
		return nil
	}
	r.file = nil
	return f.Close()
}

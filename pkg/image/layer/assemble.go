package layer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
)

const opAssemble = "put layer together"

// HasTar says whether the layer's tar can be had again: errs.Unsupported when
// it has no skeleton.
func (s *Store) HasTar(diffID image.Digest) error {
	info, err := s.Info(diffID)
	if err == nil && info.Listing != ListMetadata {
		err = errs.New(opAssemble, errs.Unsupported, string(diffID),
			errors.New("its tar can't be had again from its files: it holds some names twice, or was unpacked by an older version"))
	}
	return err
}

// WriteTar writes the layer's tar to w, as it was distributed before it was
// compressed, and checks every byte of it. A layer that has no skeleton is
// errs.Unsupported; one that is not as it was unpacked errs.Corrupt, and w has
// got something wrong by then.
func (s *Store) WriteTar(ctx context.Context, diffID image.Digest, w io.Writer) error {
	const op = opAssemble
	if err := s.HasTar(diffID); err != nil {
		return err
	}
	root, err := sys.OpenDir(s.Tree(diffID))
	if err != nil {
		return errs.Wrap(op, string(diffID), err)
	}
	defer root.Close()
	sum := diffID.Algorithm().Hash()
	a := &assembler{root: root, crc: crc32.MakeTable(crc32.Castagnoli), out: io.MultiWriter(w, sum), buf: make([]byte, 256<<10)}
	defer a.close()
	if err := a.run(ctx, filepath.Join(s.path(diffID), skeletonName)); err != nil {
		return errs.Wrap(op, string(diffID), err)
	}
	if got := digest.NewDigest(diffID.Algorithm(), sum); got != diffID {
		return image.DigestMismatch(op, "layer", diffID, got)
	}
	return nil
}

// assembler puts the tar of a layer together from its skeleton and its tree.
type assembler struct {
	root *sys.Dir
	crc  *crc32.Table
	out  io.Writer
	buf  []byte

	path string // of dir
	dir  *sys.Dir
}

func (a *assembler) close() {
	if a.dir != nil {
		_ = a.dir.Close()
	}
}

func (a *assembler) run(ctx context.Context, skeleton string) error {
	f, err := os.Open(skeleton)
	if err != nil {
		return err
	}
	defer f.Close()
	zip, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(image.MaxZstdWindow))
	if err != nil {
		return err
	}
	defer zip.Close()
	for r := bufio.NewReader(zip); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		head, err := binary.ReadUvarint(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = a.record(r, int64(head>>1), head&1)
		}
		var known *errs.Error
		if err != nil && !errors.As(err, &known) && errs.KindOf(err) == errs.Internal {
			err = errs.New("read skeleton", errs.Corrupt, "", err)
		}
		if err != nil {
			return err
		}
	}
}

func (a *assembler) record(r *bufio.Reader, n int64, kind uint64) error {
	if kind == recordLiteral {
		_, err := io.CopyN(a.out, r, n)
		return err
	}
	var crc [4]byte
	if _, err := io.ReadFull(r, crc[:]); err != nil {
		return err
	}
	length, err := binary.ReadUvarint(r)
	if err != nil {
		return err
	}
	if length > image.MaxPath {
		return fmt.Errorf("a path of %d bytes", length)
	}
	name := make([]byte, length)
	if _, err := io.ReadFull(r, name); err != nil {
		return err
	}
	return a.content(string(name), n, binary.LittleEndian.Uint32(crc[:]))
}

// content copies the file at name, which must have n bytes.
func (a *assembler) content(name string, n int64, want uint32) error {
	const op = "check file"
	f, err := a.open(name)
	if err != nil {
		return errs.New(op, errs.Corrupt, image.Printable("/"+name), err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() != n {
		return image.Refuse(op, image.Mismatch, "/"+name, "it is not %d bytes long", n)
	}
	var sum uint32
	for left := n; left > 0; {
		p := a.buf[:min(left, int64(len(a.buf)))]
		if _, err := io.ReadFull(f, p); err != nil {
			return errs.New(op, errs.Corrupt, image.Printable("/"+name), err)
		}
		sum = crc32.Update(sum, a.crc, p)
		if _, err := a.out.Write(p); err != nil {
			return errs.Wrap(op, image.Printable("/"+name), err)
		}
		left -= int64(len(p))
	}
	if sum != want {
		return image.Refuse(op, image.Mismatch, "/"+name, "its content is another than it was")
	}
	return nil
}

func (a *assembler) open(name string) (*os.File, error) {
	dir, base := path.Split(name)
	if a.dir == nil || a.path != dir {
		d, err := a.root.Open("/" + dir)
		if err != nil {
			return nil, err
		}
		a.close()
		a.dir, a.path = d, dir
	}
	return a.dir.OpenFile(base)
}

package web

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
	"github.com/stagelet/stagelet/pkg/stage0"
)

const (
	opUpload = "upload image"
	// maxUploads bounds how many are taken in at once: each may take the disk
	// that its archive and its layers need, and two processors' time.
	maxUploads = 2
	// maxSignature bounds a detached signature, in bytes.
	maxSignature = 16 << 10
	// lingerBytes are still read of an upload that was refused before its end:
	// a browser that is sending may not look at the answer before.
	lingerBytes = 64 << 20
	// signatureHeader has a detached OpenPGP signature of the body, in base64.
	signatureHeader = "Stagelet-Signature"
)

// upload takes in the images of an archive, which is the body. What can be said
// at once is said by the status; from then on the answer is a story, told line
// by line.
func (s *server) upload(w http.ResponseWriter, r *http.Request) {
	give, ok := s.uploads.take()
	if !ok {
		busy(w, r, errs.New(opUpload, errs.Unavailable, "", fmt.Errorf("%d others are under way; try again when one has ended", maxUploads)))
		return
	}
	defer give()
	signature, err := s.checkUpload(r)
	if err != nil {
		fail(w, r, err)
		return
	}
	in := http.MaxBytesReader(w, r.Body, image.MaxArchiveBytes)
	t := &story{out: lines{w: w}}
	records, err := s.takeIn(r.Context(), in, t, stage0.FileImport{
		Name: r.URL.Query().Get("name"), Signature: signature, Origin: image.OriginRemote,
	})
	if err != nil {
		_, _ = io.CopyN(io.Discard, in, lingerBytes)
		t.refused(err)
		klog.InfoS("Upload refused", "images", familiar(t.names), "client", r.RemoteAddr, "err", err)
		return
	}
	klog.InfoS("Image uploaded", "images", familiar(t.names), "client", r.RemoteAddr)
	t.end(records)
}

// takeIn imports the file in, and tells how it goes.
func (s *server) takeIn(ctx context.Context, in io.Reader, t *story, i stage0.FileImport) ([]*image.Record, error) {
	f, err := spool.Take(ctx, s.Images, in, i.Signature)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return stage0.ImportTaken(ctx, &teller{Store: s.Images, story: t, file: f}, f, i)
}

// checkUpload finds what can be found before anything is read.
func (s *server) checkUpload(r *http.Request) (signature []byte, err error) {
	if h := r.Header.Get(signatureHeader); h != "" {
		if signature, err = base64.StdEncoding.DecodeString(h); err != nil || len(signature) > maxSignature {
			return nil, errs.New(opUpload, errs.Invalid, signatureHeader, fmt.Errorf("it must be the base64 form of a signature of at most %d bytes", maxSignature))
		}
	}
	if name := r.URL.Query().Get("name"); name != "" {
		if _, err := image.ParseTag(name); err != nil {
			return nil, err
		}
	}
	if t := r.Header.Get("Content-Type"); strings.HasPrefix(t, "multipart/") {
		return nil, errs.New(opUpload, errs.Invalid, "", errors.New("the archive itself has to be the body, not a form (curl -T FILE)"))
	}
	return signature, s.checkRoom(r.ContentLength)
}

// checkRoom refuses what can't fit on the disk; what it is unpacked may not fit
// either, but nobody knows yet.
func (s *server) checkRoom(length int64) error {
	if length > image.MaxArchiveBytes {
		return image.Refuse(opUpload, image.TooLarge, "archive", "more than %d bytes", int64(image.MaxArchiveBytes))
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.Images.Root(), &st); err != nil {
		return errs.Wrap(opUpload, s.Images.Root(), err)
	}
	return fits(length, int64(st.Bavail)*max(st.Bsize, 0))
}

// fits compares bytes; a negative length is unknown.
func fits(length, free int64) error {
	if length <= free {
		return nil
	}
	return errs.New(opUpload, errs.Exhausted, "", fmt.Errorf("the archive has %d MB, the disk of the image store %d MB free; remove images first", length/1e6, free/1e6))
}

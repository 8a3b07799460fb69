package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// File is a file that has an OpenPGP signature of its own: an ACI, with its
// .aci.asc.
type File struct {
	// Name is what was asked for, "example.com/app": rules are found by it.
	Name string
	// Open gives the bytes as they were transferred; once for each key.
	Open func() (io.ReadCloser, error)
	// Signature is the detached signature, in armor or without.
	Signature []byte
}

// CheckFile proves a detached signature by any OpenPGP key that is trusted
// with the name of the file. Identities and sigstore keys sign no files.
func (p *Policy) CheckFile(f File, scope Scope) (image.Verdict, error) {
	v := image.Verdict{Time: p.now().UTC(), Reference: f.Name, Namespace: scope.Namespace}
	prefixes, err := namePrefixes(f.Name)
	if err != nil {
		return v, err
	}
	rules, err := p.files.rulesBelow(prefixes, scope)
	if err != nil {
		return v, err
	}
	next := fmt.Sprintf("To trust its signer: stagelet trust add --prefix %s KEYFILE", f.Name)
	if len(rules) == 0 {
		return v, refuse(f.Name, []error{NoRule}, next)
	}
	causes, signer, by, err := f.prove(rules, v.Time)
	switch {
	case err != nil:
		return v, errs.Wrap(opVerify, f.Name, err)
	case by != nil:
		v.Kind, v.Rule, v.Signers = signer.Kind, by.text(), []image.Signer{signer}
		return v, nil
	}
	for _, r := range rules {
		if r.signer == nil {
			v.Kind, v.Rule = image.VerdictInsecure, r.text()
			return v, nil
		}
	}
	if len(causes) == 0 {
		causes = []error{NotTrusted}
	}
	return v, refuse(f.Name, causes, next)
}

// prove finds a rule whose key signed the file, and else says why none did. An
// error says that the file can't be read.
func (f *File) prove(rules []*rule, now time.Time) (causes []error, _ image.Signer, _ *rule, _ error) {
	if len(bytes.TrimSpace(f.Signature)) == 0 {
		return []error{Unsigned}, image.Signer{}, nil, nil
	}
	for _, r := range rules {
		key, ok := r.signer.(*pgpKey)
		if !ok {
			continue
		}
		signedAt, refused, err := f.by(key, now)
		if err != nil {
			return nil, image.Signer{}, nil, err
		}
		if refused == nil {
			refused = r.terms.checkTime(signedAt)
		}
		if refused == nil {
			return nil, image.Signer{Kind: image.VerdictOpenPGP, Key: key.id, SignedAt: signedAt}, r, nil
		}
		causes = append(causes, refused)
	}
	return causes, image.Signer{}, nil, nil
}

func (f *File) by(key *pgpKey, now time.Time) (signedAt time.Time, refused, err error) {
	body, err := f.Open()
	if err != nil {
		return time.Time{}, nil, err
	}
	defer body.Close()
	b := &watched{r: body}
	signedAt, refused = key.verifyDetached(b, f.Signature, now)
	return signedAt, refused, b.err
}

// watched remembers that reading failed: that is no refusal.
type watched struct {
	r   io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// CheckName checks that a file that was asked for by a name says the same of
// itself: a signature proves who made an ACI, and not that it is this one.
func CheckName(asked, says string) error {
	if asked != says {
		return refuse(image.Printable(asked), []error{because(OtherName, "%s", image.Printable(says))}, "")
	}
	return nil
}

// Package trust_test proves keyless signatures against a sigstore of its own:
// certificate authority, transparency log and time-stamping authority, all in
// memory. It is a module of its own for what that weighs.
package trust_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/stagelet/stagelet/internal/testutil/signed"
)

// virtual is a whole sigstore.
type virtual struct {
	t testing.TB
	*ca.VirtualSigstore
}

func newVirtual(t testing.TB) *virtual {
	t.Helper()
	v, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	return &virtual{t, v}
}

// writeRoot writes its trusted_root.json. Its certificates have no SCT, so the
// certificate transparency logs stay out unless they are asked for.
func (v *virtual) writeRoot(dir string, withCTLogs bool) {
	v.t.Helper()
	fix := func(logs map[string]*root.TransparencyLog) map[string]*root.TransparencyLog {
		for id, l := range logs {
			raw, err := hex.DecodeString(id)
			if err != nil {
				v.t.Fatal(err)
			}
			l.ID = raw
		}
		return logs
	}
	ct := map[string]*root.TransparencyLog{}
	if withCTLogs {
		ct = fix(v.CTLogs())
	}
	tr, err := root.NewTrustedRoot("application/vnd.dev.sigstore.trustedroot+json;version=0.1",
		v.FulcioCertificateAuthorities(), ct, v.TimestampingAuthorities(), fix(v.RekorLogs()))
	if err != nil {
		v.t.Fatal(err)
	}
	data, err := tr.MarshalJSON()
	if err != nil {
		v.t.Fatal(err)
	}
	path := filepath.Join(dir, "sigstore/trusted_root.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		v.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		v.t.Fatal(err)
	}
}

// promise makes the log's signed entry timestamp for an entry.
func (v *virtual) promise(e *tlog.Entry) []byte {
	v.t.Helper()
	set, err := v.RekorSignPayload(tlog.RekorPayload{
		Body: e.Body(), IntegratedTime: e.IntegratedTime().Unix(), LogIndex: e.LogIndex(),
		LogID: hex.EncodeToString([]byte(e.LogKeyID())),
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return set
}

// legacy signs a payload as cosign did before version 3.
func (v *virtual) legacy(issuer, subject string, payload []byte, at time.Time) signed.Legacy {
	v.t.Helper()
	e, err := v.SignAtTime(subject, issuer, payload, at)
	if err != nil {
		v.t.Fatal(err)
	}
	sig, err := e.SignatureContent()
	if err != nil {
		v.t.Fatal(err)
	}
	entry := v.entry(e)
	return signed.Legacy{Payload: payload, Annotations: map[string]string{
		signed.AnnotationSignature: base64.StdEncoding.EncodeToString(sig.Signature()),
		signed.AnnotationCert:      string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.cert(e).Raw})),
		signed.AnnotationLog:       string(v.logAnnotation(entry)),
	}}
}

func (v *virtual) logAnnotation(e *tlog.Entry) []byte {
	v.t.Helper()
	data, err := json.Marshal(map[string]any{
		"SignedEntryTimestamp": v.promise(e),
		"Payload": map[string]any{
			"body": e.Body(), "integratedTime": e.IntegratedTime().Unix(), "logIndex": e.LogIndex(),
			"logID": hex.EncodeToString([]byte(e.LogKeyID())),
		},
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return data
}

func (v *virtual) cert(e *ca.TestEntity) *x509.Certificate {
	v.t.Helper()
	content, err := e.VerificationContent()
	if err != nil {
		v.t.Fatal(err)
	}
	return content.Certificate()
}

func (v *virtual) entry(e *ca.TestEntity) *tlog.Entry {
	v.t.Helper()
	entries, err := e.TlogEntries()
	if err != nil {
		v.t.Fatal(err)
	}
	return entries[0]
}

// bundle signs a statement as cosign does since version 3.
func (v *virtual) bundle(issuer, subject string, statement []byte, at time.Time) *protobundle.Bundle {
	v.t.Helper()
	e, err := v.AttestAtTime(subject, issuer, statement, at, true)
	if err != nil {
		v.t.Fatal(err)
	}
	sig, err := e.SignatureContent()
	if err != nil {
		v.t.Fatal(err)
	}
	entry := v.entry(e)
	logged := proto.Clone(entry.TransparencyLogEntry()).(*protorekor.TransparencyLogEntry)
	logged.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: v.promise(entry)}
	logged.KindVersion = &protorekor.KindVersion{Kind: "dsse", Version: "0.0.1"}
	return &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_Certificate{
				Certificate: &protocommon.X509Certificate{RawBytes: v.cert(e).Raw},
			},
			TlogEntries: []*protorekor.TransparencyLogEntry{logged},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload: statement, PayloadType: "application/vnd.in-toto+json",
			Signatures: []*protodsse.Signature{{Sig: sig.Signature()}},
		}},
	}
}

func encode(t testing.TB, b *protobundle.Bundle) []byte {
	t.Helper()
	data, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// logged makes the log entry, as an annotation, of somebody else's signature.
func (v *virtual) logged(l signed.Legacy) string {
	return v.loggedKey(l, []byte(l.Annotations[signed.AnnotationCert]))
}

// loggedKey makes the log entry of a signature by a key or certificate.
func (v *virtual) loggedKey(l signed.Legacy, verifier []byte) string {
	v.t.Helper()
	sum := sha256.Sum256(l.Payload)
	body, err := json.Marshal(map[string]any{
		"apiVersion": "0.0.1", "kind": "hashedrekord",
		"spec": map[string]any{
			"data": map[string]any{"hash": map[string]string{"algorithm": "sha256", "value": hex.EncodeToString(sum[:])}},
			"signature": map[string]any{
				"content":   l.Annotations[signed.AnnotationSignature],
				"publicKey": map[string]any{"content": verifier},
			},
		},
	})
	if err != nil {
		v.t.Fatal(err)
	}
	id, err := v.RekorLogID()
	if err != nil {
		v.t.Fatal(err)
	}
	raw, err := hex.DecodeString(id)
	if err != nil {
		v.t.Fatal(err)
	}
	e, err := tlog.NewTlogEntry(&protorekor.TransparencyLogEntry{
		LogIndex: 1, LogId: &protocommon.LogId{KeyId: raw}, IntegratedTime: soon().Unix(), CanonicalizedBody: body,
		KindVersion: &protorekor.KindVersion{Kind: "hashedrekord", Version: "0.0.1"},
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return string(v.logAnnotation(e))
}

// authority gives the certificate authority in PEM.
func (v *virtual) authority() (all []byte) {
	v.t.Helper()
	fulcio, ok := v.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	if !ok {
		v.t.Fatal("no certificate authority")
	}
	for _, c := range append([]*x509.Certificate{fulcio.Root}, fulcio.Intermediates...) {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return all
}

// rekorKey gives the key of the transparency log in PEM.
func (v *virtual) rekorKey() []byte {
	v.t.Helper()
	for _, l := range v.RekorLogs() {
		der, err := x509.MarshalPKIXPublicKey(l.PublicKey)
		if err != nil {
			v.t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	v.t.Fatal("no log")
	return nil
}

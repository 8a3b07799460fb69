package trust

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/stagelet/stagelet/pkg/image"
)

// keySource is how a requirement gives keys: in files or inline, and one or
// any of several.
type keySource struct {
	path, data string // names of the fields, for errors
	Path       string
	Paths      []string
	Data       []byte
	Datas      [][]byte
	needed     bool
}

// read gives the contents; exactly one of the fields may be there.
func (k keySource) read() ([][]byte, error) {
	var all [][]byte
	given := 0
	if k.Path != "" {
		k.Paths = append([]string{k.Path}, k.Paths...)
	}
	if len(k.Paths) > 0 {
		given++
	}
	if k.Data != nil {
		all, given = append(all, k.Data), given+1
	}
	if k.Datas != nil {
		all, given = append(all, k.Datas...), given+1
	}
	if given > 1 || k.needed && given == 0 {
		return nil, fmt.Errorf("exactly one of %s and %s has to be there", k.path, k.data)
	}
	for _, path := range k.Paths {
		data, _, err := readSmall(path, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.path, err)
		}
		all = append(all, data)
	}
	return all, nil
}

// parseSignedBy reads a requirement of a GPG signature. A keyring may have
// several keys, and any of them may sign.
func parseSignedBy(data []byte) (requirement, error) {
	var d struct {
		Type           string          `json:"type"`
		KeyType        string          `json:"keyType"`
		KeyPath        string          `json:"keyPath"`
		KeyPaths       []string        `json:"keyPaths"`
		KeyData        []byte          `json:"keyData"`
		SignedIdentity json.RawMessage `json:"signedIdentity"`
	}
	if err := decodeStrict("requirement", data, &d); err != nil {
		return requirement{}, err
	}
	if d.KeyType != "GPGKeys" {
		return requirement{}, fmt.Errorf("keyType %s is not GPGKeys", image.Printable(d.KeyType))
	}
	t, err := parseSignedIdentity(d.SignedIdentity)
	if err != nil {
		return requirement{}, err
	}
	rings, err := keySource{
		path: "keyPath", data: "keyData", Path: d.KeyPath, Paths: d.KeyPaths, Data: d.KeyData, needed: true,
	}.read()
	if err != nil {
		return requirement{}, err
	}
	var r requirement
	for _, ring := range rings {
		keys, err := parseKeyring(ring)
		if err != nil {
			return requirement{}, err
		}
		for _, k := range keys {
			r.rules = append(r.rules, &rule{signer: k, terms: t})
		}
	}
	return r, nil
}

// parseSigstoreSigned reads a requirement of a sigstore signature.
func parseSigstoreSigned(data []byte) (requirement, error) {
	var d struct {
		Type     string   `json:"type"`
		KeyPath  string   `json:"keyPath"`
		KeyPaths []string `json:"keyPaths"`
		KeyData  []byte   `json:"keyData"`
		KeyDatas [][]byte `json:"keyDatas"`
		Fulcio   *struct {
			CAPath       string `json:"caPath"`
			CAData       []byte `json:"caData"`
			OIDCIssuer   string `json:"oidcIssuer"`
			SubjectEmail string `json:"subjectEmail"`
		} `json:"fulcio"`
		RekorPath      string          `json:"rekorPublicKeyPath"`
		RekorPaths     []string        `json:"rekorPublicKeyPaths"`
		RekorData      []byte          `json:"rekorPublicKeyData"`
		RekorDatas     [][]byte        `json:"rekorPublicKeyDatas"`
		SignedIdentity json.RawMessage `json:"signedIdentity"`
	}
	if err := decodeStrict("requirement", data, &d); err != nil {
		return requirement{}, err
	}
	t, err := parseSignedIdentity(d.SignedIdentity)
	if err != nil {
		return requirement{}, err
	}
	logs, err := keySource{
		path: "rekorPublicKeyPath", data: "rekorPublicKeyData",
		Path: d.RekorPath, Paths: d.RekorPaths, Data: d.RekorData, Datas: d.RekorDatas,
	}.read()
	if err != nil {
		return requirement{}, err
	}
	m := &material{}
	if m.logs, err = parseLogs(logs); err != nil {
		return requirement{}, err
	}
	t.logged = len(m.logs) > 0
	keys, err := keySource{
		path: "keyPath", data: "keyData", Path: d.KeyPath, Paths: d.KeyPaths, Data: d.KeyData, Datas: d.KeyDatas,
		needed: d.Fulcio == nil,
	}.read()
	if err != nil {
		return requirement{}, err
	}
	var r requirement
	for _, k := range keys {
		key, err := parseSigstoreKey(k)
		if err != nil {
			return requirement{}, err
		}
		r.rules = append(r.rules, &rule{signer: key, terms: t, root: m})
	}
	if d.Fulcio == nil {
		return r, nil
	}
	if len(keys) > 0 || len(m.logs) == 0 {
		return requirement{}, errors.New("fulcio needs a rekorPublicKey, and no key beside it")
	}
	who, err := (&Identity{Issuer: d.Fulcio.OIDCIssuer, Subject: d.Fulcio.SubjectEmail}).compile()
	if err != nil {
		return requirement{}, err
	}
	cas, err := keySource{path: "caPath", data: "caData", Path: d.Fulcio.CAPath, Data: d.Fulcio.CAData, needed: true}.read()
	if err != nil {
		return requirement{}, err
	}
	if m.authorities, err = parseAuthorities(cas[0]); err != nil {
		return requirement{}, err
	}
	return requirement{rules: []*rule{{signer: who, terms: t, root: m}}}, nil
}

// material is a trusted root made of single keys and certificates.
type material struct {
	root.BaseTrustedMaterial
	authorities []root.CertificateAuthority
	logs        map[string]*root.TransparencyLog
}

// FulcioCertificateAuthorities gives the certificate authorities.
func (m *material) FulcioCertificateAuthorities() []root.CertificateAuthority { return m.authorities }

// RekorLogs gives the transparency logs, by id.
func (m *material) RekorLogs() map[string]*root.TransparencyLog { return m.logs }

func parseLogs(keys [][]byte) (map[string]*root.TransparencyLog, error) {
	logs := map[string]*root.TransparencyLog{}
	for _, data := range keys {
		k, err := parseSigstoreKey(data)
		if err != nil {
			return nil, fmt.Errorf("rekorPublicKey: %w", err)
		}
		id, err := hex.DecodeString(k.id)
		if err != nil {
			return nil, err
		}
		logs[k.id] = &root.TransparencyLog{
			ID: id, PublicKey: k.key, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
			ValidityPeriodStart: time.Unix(1, 0),
		}
	}
	return logs, nil
}

// parseAuthorities reads certificates in PEM: one that signed itself is a
// root, the others are intermediate ones.
func parseAuthorities(data []byte) (all []root.CertificateAuthority, err error) {
	var roots, between []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("fulcio.ca: %w", err)
		}
		if bytes.Equal(c.RawIssuer, c.RawSubject) {
			roots = append(roots, c)
		} else {
			between = append(between, c)
		}
	}
	if len(roots) == 0 { // an intermediate one alone can be what is trusted
		roots, between = between, nil
	}
	if len(roots) == 0 {
		return nil, errors.New("fulcio.ca: no certificate")
	}
	for _, r := range roots {
		all = append(all, &root.FulcioCertificateAuthority{Root: r, Intermediates: between})
	}
	return all, nil
}

// parseSignedIdentity says how the signed reference is compared. Nothing means
// matchRepoDigestOrExact.
func parseSignedIdentity(data json.RawMessage) (terms, error) {
	t := terms{named: nameTag, mustName: true}
	if len(data) == 0 {
		return t, nil
	}
	var d struct {
		Type         string `json:"type"`
		Reference    string `json:"dockerReference"`
		Repository   string `json:"dockerRepository"`
		Prefix       string `json:"prefix"`
		SignedPrefix string `json:"signedPrefix"`
	}
	if err := decodeStrict("signedIdentity", data, &d); err != nil {
		return t, err
	}
	switch d.Type {
	case "matchExact", "matchRepoDigestOrExact":
	case "matchRepository":
		t.named = nameRepository
	case "exactReference", "exactRepository":
		exact, err := image.ParseRef(d.Reference + d.Repository)
		if err != nil {
			return t, err
		}
		if d.Type == "exactRepository" {
			t.named = nameRepository
		}
		t.as = func(image.Ref) (image.Ref, error) { return exact, nil }
	case "remapIdentity":
		from, err := ParsePrefix(d.Prefix)
		if err != nil {
			return t, err
		}
		t.as = func(ref image.Ref) (image.Ref, error) {
			if !from.Covers(ref) {
				return ref, nil
			}
			return image.ParseRef(d.SignedPrefix + strings.TrimPrefix(ref.String(), string(from)))
		}
	default:
		return t, fmt.Errorf("signedIdentity of type %s is not known", image.Printable(d.Type))
	}
	return t, nil
}

package trust

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// ruleExtension ends the name of a rule that is written out. Any other file
// is a key, and its name the key's fingerprint.
const ruleExtension = ".yaml"

// Rule is a rule as it is written out (docs/image-trust.md). Exactly one of
// Key, Identity and Insecure is there.
type Rule struct {
	// Key is an OpenPGP key in armor, or a public key in PEM.
	Key      string    `json:"key,omitempty"`
	Identity *Identity `json:"identity,omitempty"`
	// Insecure accepts images that nobody signed.
	Insecure bool `json:"insecure,omitempty"`

	// Reference says how a signature's reference is compared with the one
	// asked for: exact (default), repository, any.
	Reference string `json:"reference,omitempty"`
	// MinSignedAt refuses signatures from before.
	MinSignedAt *time.Time `json:"minSignedAt,omitempty"`
	// TransparencyLog asks for an entry in the log also where a key signed.
	TransparencyLog bool `json:"transparencyLog,omitempty"`
}

// Identity is whom a sigstore certificate names.
type Identity struct {
	// Issuer is who vouched for the signer: the URL of an OpenID provider.
	Issuer string `json:"issuer"`
	// Subject is the signer: an e-mail address or a URI. SubjectRegexp takes
	// every one that it matches as a whole (RE2).
	Subject       string `json:"subject,omitempty"`
	SubjectRegexp string `json:"subjectRegexp,omitempty"`
}

// parseRule reads a rule or key file of that name.
func parseRule(name string, data []byte) (*rule, error) {
	if !strings.HasSuffix(name, ruleExtension) {
		s, err := parseKey(data)
		if err != nil {
			return nil, err
		}
		if s.fingerprint() != strings.ToLower(name) {
			return nil, because(WrongName, "it is %s", s.fingerprint())
		}
		return &rule{signer: s, terms: terms{named: nameExact}}, nil
	}
	var r Rule
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	if err := decodeStrict("rule", text, &r); err != nil {
		return nil, err
	}
	return r.compile()
}

func (r *Rule) compile() (*rule, error) {
	kinds := 0
	for _, there := range []bool{r.Key != "", r.Identity != nil, r.Insecure} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, errors.New("it must have exactly one of key, identity and insecure")
	}
	c := &rule{terms: terms{named: nameExact, logged: r.TransparencyLog}}
	switch n := naming(r.Reference); n {
	case "":
	case nameExact, nameRepository, nameAny:
		c.terms.named = n
	default:
		return nil, fmt.Errorf("reference: %q is not exact, repository or any", r.Reference)
	}
	if r.MinSignedAt != nil {
		c.terms.notBefore = *r.MinSignedAt
	}
	if r.Insecure {
		if *r != (Rule{Insecure: true}) {
			return nil, errors.New("insecure accepts every image: nothing else can stand beside it")
		}
		return c, nil
	}
	var err error
	if c.signer, err = r.compileSigner(); err != nil {
		return nil, err
	}
	return c, nil
}

func (r *Rule) compileSigner() (signer, error) {
	if r.Identity != nil {
		return r.Identity.compile()
	}
	k, err := parseKey([]byte(r.Key))
	if _, pgp := k.(*pgpKey); err == nil && pgp && r.TransparencyLog {
		err = errors.New("transparencyLog: OpenPGP signatures have none")
	}
	return k, err
}

func (i *Identity) compile() (*identity, error) {
	c := &identity{issuer: i.Issuer, subject: i.Subject, written: i.SubjectRegexp}
	if i.Issuer == "" {
		return nil, errors.New("identity.issuer is missing: anybody can have any subject somewhere")
	}
	if (i.Subject == "") == (i.SubjectRegexp == "") {
		return nil, errors.New("identity must have exactly one of subject and subjectRegexp")
	}
	if i.SubjectRegexp != "" {
		var err error
		if c.pattern, err = regexp.Compile(`\A(?:` + i.SubjectRegexp + `)\z`); err != nil {
			return nil, fmt.Errorf("identity.subjectRegexp: %w", err)
		}
	}
	return c, nil
}

// keySigner is a signer with a key.
type keySigner interface {
	signer
	fingerprint() string
}

// parseKey reads a public key: OpenPGP, in armor or without, or PEM.
func parseKey(data []byte) (keySigner, error) {
	if bytes.Contains(data, []byte("PRIVATE KEY")) {
		return nil, because(PrivateKey, "only the public half belongs here")
	}
	if bytes.Contains(data, []byte("-----BEGIN ")) && !bytes.Contains(data, []byte("-----BEGIN PGP ")) {
		return parseSigstoreKey(data)
	}
	return parsePGPKey(data)
}

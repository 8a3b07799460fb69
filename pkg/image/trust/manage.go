package trust

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"sigs.k8s.io/yaml"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Place is what a rule covers.
type Place struct {
	// Prefix is a prefix of images; "" covers every image.
	Prefix Prefix `json:"prefix,omitempty"`
	// Namespace limits the rule to what one Kubernetes namespace asks for.
	Namespace string `json:"namespace,omitempty"`
}

// dir gives the place's directory, below one of rules.
func (p Place) dir() (string, error) {
	dir := rootDir
	if p.Prefix != "" {
		checked, err := ParsePrefix(string(p.Prefix))
		if err != nil {
			return "", err
		}
		dir = filepath.Join(prefixDir, string(checked))
	}
	if p.Namespace == "" {
		return dir, nil
	}
	if !isName(p.Namespace) {
		return "", errs.New("add rule", errs.Invalid, image.Printable(p.Namespace), errors.New("not the name of a namespace"))
	}
	return filepath.Join(namespaceDir, p.Namespace, dir), nil
}

// NewRule is a rule that is to be written: nothing yet.
type NewRule struct {
	// Name is the last element of its path: a key's fingerprint, or made from
	// what the rule says.
	Name string
	// Text says it to a person.
	Text string
	data []byte
}

// NewKey makes a rule from a key file: OpenPGP or PEM.
func NewKey(data []byte) (*NewRule, error) {
	k, err := parseKey(data)
	if err != nil {
		return nil, errs.New("read key", errs.Invalid, "", err)
	}
	if pgp, ok := k.(*pgpKey); ok {
		if err := pgp.canSign(); err != nil {
			return nil, errs.New("read key", errs.Invalid, pgp.id, err)
		}
	}
	return &NewRule{Name: k.fingerprint(), Text: k.String(), data: data}, nil
}

// SplitKeys gives each key of a file as a file of its own: a keyring may have
// several OpenPGP keys, in one block of armor or in several. What has one key
// stays as it is.
func SplitKeys(data []byte) (files [][]byte, err error) {
	const begin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	blocks := bytes.Split(data, []byte(begin))
	if len(blocks) == 1 && bytes.Contains(data, []byte("-----BEGIN ")) {
		return [][]byte{data}, nil // PEM, which has one
	}
	var keys []*pgpKey
	for i, block := range blocks {
		if i > 0 {
			block = append([]byte(begin), block...)
		} else if len(blocks) > 1 {
			continue // what stands before the armor
		}
		found, err := parseKeyring(block)
		if err != nil {
			return nil, errs.New("read keys", errs.Invalid, "", err)
		}
		keys = append(keys, found...)
	}
	if len(keys) == 1 {
		return [][]byte{data}, nil
	}
	for _, k := range keys {
		var armored bytes.Buffer
		w, err := armor.Encode(&armored, openpgp.PublicKeyType, nil)
		if err == nil {
			_, err = w.Write(k.binary)
			err = errors.Join(err, w.Close())
		}
		if err != nil {
			return nil, errs.Wrap("read keys", k.id, err)
		}
		files = append(files, armored.Bytes())
	}
	return files, nil
}

// WriteRule makes a rule from its written form.
func WriteRule(r Rule) (*NewRule, error) {
	compiled, err := r.compile()
	if err != nil {
		return nil, errs.New("write rule", errs.Invalid, "", err)
	}
	data, err := yaml.Marshal(r)
	if err != nil {
		return nil, errs.Wrap("write rule", "", err)
	}
	if r.Insecure {
		return &NewRule{Name: "insecure" + ruleExtension, Text: "unsigned images", data: data}, nil
	}
	sum := sha256.Sum256(data)
	name := "identity-" + hex.EncodeToString(sum[:8])
	if k, ok := compiled.signer.(keySigner); ok {
		name = k.fingerprint()
	}
	return &NewRule{Name: name + ruleExtension, Text: compiled.signer.String(), data: data}, nil
}

// Add puts a rule into dir, which is one of Options.Dirs, and gives its path.
// The same rule again changes nothing.
func Add(dir string, p Place, r *NewRule) (path string, err error) {
	const op = "add rule"
	below, err := p.dir()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, below, r.Name)
	if old, _, err := readSmall(path, nil); err == nil && bytes.Equal(old, r.data) {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", errs.Wrap(op, path, err)
	}
	return path, errs.Wrap(op, path, atomicfile.WriteDurable(path, r.data, 0o644))
}

// Listed is a rule as it stands on disk.
type Listed struct {
	Place
	Name string `json:"name"`
	Path string `json:"path"`
	// Text says the rule to a person.
	Text string `json:"text,omitempty"`
	// Masked: it does nothing, since another file of its name hides it.
	Masked bool `json:"masked,omitempty"`
	// Mask: it is empty, and only hides others.
	Mask bool `json:"mask,omitempty"`
	// Problem says why it can't be used. Until it is repaired, everything that
	// it covers is refused.
	Problem string `json:"problem,omitempty"`
}

// List gives all rules in the directories, the strongest directory first.
func List(dirs []string) ([]Listed, error) {
	var all []Listed
	seen := map[string]bool{}
	files := &ruleFiles{dirs: dirs}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return badFile(path, err)
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			if rel != "." && strings.HasPrefix(d.Name(), ".") {
				if d.IsDir() {
					return filepath.SkipDir
				}
				return nil
			}
			place, isRule := placeOf(filepath.Dir(rel))
			if !isRule || !isFile(path, d) {
				return nil
			}
			all = append(all, files.listed(path, place, seen[rel]))
			seen[rel] = true
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(all, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Prefix, b.Prefix), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

func (f *ruleFiles) listed(path string, p Place, masked bool) Listed {
	l := Listed{Place: p, Name: filepath.Base(path), Path: path, Masked: masked}
	r, err := f.read(path)
	switch {
	case err != nil:
		l.Problem = err.Error()
	case r == nil:
		l.Mask = true
	case r.signer == nil:
		l.Text = "unsigned images"
	default:
		l.Text = r.signer.String() + r.terms.text()
	}
	return l
}

// text says what is asked of a signature besides its signer; "" for nothing
// special.
func (t terms) text() string {
	text := ""
	if t.logged {
		text += ", in a transparency log"
	}
	if !t.notBefore.IsZero() {
		text += ", not before " + t.notBefore.UTC().Format(time.RFC3339)
	}
	if t.named != nameExact {
		text += ", signed reference: " + string(t.named)
	}
	return text
}

// placeOf is the inverse of Place.dir.
func placeOf(dir string) (p Place, ok bool) {
	if rest, in := strings.CutPrefix(dir, namespaceDir+"/"); in {
		p.Namespace, dir, _ = strings.Cut(rest, "/")
	}
	if dir == rootDir {
		return p, true
	}
	prefix, ok := strings.CutPrefix(dir, prefixDir+"/")
	p.Prefix = Prefix(prefix)
	return p, ok
}

// Remove takes the rule of that name away. What lies in dirs[0] is removed;
// what lies in another one, which was installed, is hidden by an empty file in
// dirs[0]. The paths are those that changed; none is errs.NotFound.
func Remove(dirs []string, p Place, name string) (path string, err error) {
	const op = "remove rule"
	below, err := p.dir()
	if err != nil {
		return "", err
	}
	if !isName(name) {
		return "", errs.New(op, errs.Invalid, image.Printable(name), errors.New("not the name of a rule"))
	}
	path = filepath.Join(dirs[0], below, name)
	installed := slices.ContainsFunc(dirs[1:], func(dir string) bool {
		_, err := os.Lstat(filepath.Join(dir, below, name))
		return err == nil
	})
	info, err := os.Lstat(path)
	switch {
	case installed && err == nil && info.Size() == 0:
		return path, nil
	case installed:
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", errs.Wrap(op, path, err)
		}
		return path, errs.Wrap(op, path, atomicfile.WriteDurable(path, nil, 0o644))
	case errors.Is(err, fs.ErrNotExist):
		return "", errs.New(op, errs.NotFound, path, NoSuchRule)
	case err != nil:
		return "", errs.Wrap(op, path, err)
	}
	if err := os.Remove(path); err != nil {
		return "", errs.Wrap(op, path, err)
	}
	return path, errs.Wrap(op, path, atomicfile.SyncDir(filepath.Dir(path)))
}

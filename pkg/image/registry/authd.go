package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// authFile is a file of an auth.d directory, in the form that rkt gave it.
//
//	{"rktKind": "auth", "rktVersion": "v1", "domains": ["example.com"],
//	 "type": "basic", "credentials": {"user": "u", "password": "p"}}
//	{"rktKind": "auth", …, "type": "oauth", "credentials": {"token": "t"}}
//	{"rktKind": "dockerAuth", "rktVersion": "v1", "registries": ["docker.io"],
//	 "credentials": {"user": "u", "password": "p"}}
type authFile struct {
	Kind        string   `json:"rktKind"`
	Version     string   `json:"rktVersion"`
	Domains     []string `json:"domains"`
	Registries  []string `json:"registries"`
	Type        string   `json:"type"`
	Credentials struct {
		User     string `json:"user"`
		Password string `json:"password"`
		Token    string `json:"token"`
	} `json:"credentials"`
}

// The kinds of file, and the types of the kind auth.
const (
	kindAuth       = "auth"
	kindDockerAuth = "dockerAuth"

	typeBasic = "basic"
	typeOAuth = "oauth"
)

// unusable is the type of an entry that can't be used for a registry.
type unusable string

func (u unusable) Error() string {
	return fmt.Sprintf("credentials of type %s can't be used for registries", image.Printable(string(u)))
}

// authEntry is what a file says of one name.
type authEntry struct {
	credential auth.Credential
	err        error // why it is of no use
}

func parseAuthFile(data []byte) (kind string, names []string, entry authEntry, err error) {
	var f authFile
	if err := image.DecodeDocument("credentials", data, &f); err != nil {
		return "", nil, entry, withoutSecret(err)
	}
	if f.Version != "v1" {
		return "", nil, entry, fmt.Errorf("rktVersion is %s, must be v1", image.Printable(f.Version))
	}
	c := f.Credentials
	switch f.Kind {
	case kindDockerAuth:
		names, f.Type = f.Registries, typeBasic
	case kindAuth:
		names = f.Domains
	default:
		return "", nil, entry, fmt.Errorf("rktKind is %s, must be %s or %s", image.Printable(f.Kind), kindAuth, kindDockerAuth)
	}
	if len(names) == 0 {
		return "", nil, entry, errors.New("it names no domains or registries")
	}
	switch f.Type {
	case typeBasic:
		if c.User == "" || c.Password == "" {
			return "", nil, entry, errors.New("credentials.user and credentials.password are needed")
		}
		entry.credential = auth.Credential{Username: c.User, Password: c.Password}
	case typeOAuth:
		if c.Token == "" {
			return "", nil, entry, errors.New("credentials.token is needed")
		}
		entry.credential = auth.Credential{AccessToken: c.Token}
	default:
		entry.err = unusable(f.Type)
	}
	return f.Kind, names, entry, nil
}

// findAuthDir looks for the credentials of a host in the files "*.json" of a
// directory, those of the first kind first; two of one kind about one name
// contradict each other.
func findAuthDir(dir, name string, kinds ...string) (auth.Credential, error) {
	none := auth.EmptyCredential
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, errs.Wrap(opAuth, dir, err)
	}
	found := map[string]authEntry{} // by kind
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		data, err := readSmall(path)
		if err != nil {
			return none, errs.Wrap(opAuth, path, err)
		}
		kind, names, entry, err := parseAuthFile(data)
		if err != nil {
			return none, errs.New(opAuth, errs.Invalid, path, err)
		}
		if !contains(names, name) {
			continue
		}
		if _, twice := found[kind]; twice {
			return none, errs.New(opAuth, errs.Invalid, path, fmt.Errorf("another file of %s has credentials for %s too", dir, name))
		}
		found[kind] = entry
	}
	for _, kind := range kinds {
		if entry, there := found[kind]; there {
			if entry.err != nil {
				return none, errs.New(opAuth, errs.Unsupported, name, entry.err)
			}
			return entry.credential, nil
		}
	}
	return none, nil
}

func contains(list []string, name string) bool {
	for _, n := range list {
		if serverName(n) == name {
			return true
		}
	}
	return false
}

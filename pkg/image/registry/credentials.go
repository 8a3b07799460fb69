package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// Credentials are where this machine keeps credentials. They are read when a
// registry asks for some. A file that can't be understood is an error.
type Credentials struct {
	// AuthDirs hold JSON files in rkt's form, of the kinds auth and dockerAuth
	// (authd.go); an earlier directory is stronger.
	AuthDirs []string
	// DockerConfigs are files in the form of Docker's config.json; they come
	// after AuthDirs, and an earlier one is stronger.
	DockerConfigs []string
}

// find gives the credentials for a repository ("/library/busybox") at a
// registry of that name; none is no error.
func (c *Credentials) find(ctx context.Context, name, repository string, patience time.Duration) (auth.Credential, error) {
	for _, dir := range c.AuthDirs {
		found, err := findAuthDir(dir, name, kindDockerAuth, kindAuth)
		if err != nil || found != auth.EmptyCredential {
			return found, err
		}
	}
	for _, file := range c.DockerConfigs {
		data, err := readSmall(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return auth.EmptyCredential, errs.Wrap(opAuth, file, err)
		}
		config, err := parseDockerConfig(data)
		if err != nil {
			return auth.EmptyCredential, errs.New(opAuth, errs.Invalid, file, err)
		}
		found, err := config.find(ctx, name, repository, patience)
		if err != nil {
			return auth.EmptyCredential, errs.New(opAuth, errs.KindOf(err), file, err)
		}
		if found != auth.EmptyCredential {
			return found, nil
		}
	}
	return auth.EmptyCredential, nil
}

// dockerConfig is what matters here of Docker's config.json.
type dockerConfig struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredsStore  string                `json:"credsStore"`
	CredHelpers map[string]string     `json:"credHelpers"`
}

type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func parseDockerConfig(data []byte) (*dockerConfig, error) {
	var c dockerConfig
	if err := image.DecodeDocument("docker configuration", data, &c); err != nil {
		return nil, withoutSecret(err)
	}
	return &c, nil
}

// withoutSecret keeps a decoder from repeating what it read.
func withoutSecret(err error) error {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType):
		return fmt.Errorf("%w: %s must be a %s", image.Malformed, wrongType.Field, wrongType.Type)
	case errors.As(err, &syntax):
		return fmt.Errorf("%w: byte %d", image.Malformed, syntax.Offset)
	}
	return err
}

// find asks the helper for the registry, or else the store for all; then the
// file itself, whose most specific entry counts.
func (c *dockerConfig) find(ctx context.Context, name, repository string, patience time.Duration) (auth.Credential, error) {
	helper, address := c.CredsStore, dockerAddress(name)
	for key, h := range c.CredHelpers {
		if serverName(key) == name {
			helper, address = h, key
		}
	}
	if helper != "" {
		found, err := askHelper(ctx, helper, address, patience)
		if err != nil || found != auth.EmptyCredential {
			return found, err
		}
	}
	var best string
	var entry dockerAuth
	for _, key := range slices.Sorted(maps.Keys(c.Auths)) {
		scope, ok := covers(key, name, repository)
		if ok && (len(scope) > len(best) || scope == best && key == name) {
			best, entry = scope, c.Auths[key]
		}
	}
	a := Auth{
		Username: entry.Username, Password: entry.Password, Auth: entry.Auth,
		IdentityToken: entry.IdentityToken, RegistryToken: entry.RegistryToken,
	}
	return a.credential()
}

// dockerAddress is what Docker calls a registry.
func dockerAddress(name string) string {
	if name == dockerHub {
		return "https://index.docker.io/v1/"
	}
	return name
}

// covers says whether the key of an entry is about a repository, and gives it
// in a form that is longer the more specific it is: a registry, or a path in
// it that ends where an element does.
func covers(key, name, repository string) (string, bool) {
	if serverName(key) != name {
		return "", false
	}
	_, rest, hasScheme := strings.Cut(key, "://")
	if !hasScheme {
		rest = key
	}
	_, path, _ := strings.Cut(rest, "/")
	path = strings.Trim(path, "/")
	if path == "" || path == "v1" || path == "v2" {
		return name, true
	}
	scope := "/" + path
	return name + scope, repository == scope || strings.HasPrefix(repository, scope+"/")
}

// tokenUser is the user that a helper names for an identity token.
const tokenUser = "<token>"

// askHelper runs docker-credential-<helper>
// (github.com/docker/docker-credential-helpers).
func askHelper(ctx context.Context, helper, address string, patience time.Duration) (auth.Credential, error) {
	none := auth.EmptyCredential
	program := "docker-credential-" + helper
	if !regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`).MatchString(helper) {
		return none, errs.New(opAuth, errs.Invalid, image.Printable(program), errors.New("is not the name of a credential helper"))
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Stdin = strings.NewReader(address)
	var out, text limitedBuffer
	cmd.Stdout, cmd.Stderr = &out, &text
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch said := strings.TrimSpace(out.String()); {
	case err != nil && strings.Contains(said, "credentials not found"):
		return none, nil
	case ctx.Err() != nil:
		return none, errs.Wrap(opAuth, program, ctx.Err())
	case err != nil:
		return none, errs.New(opAuth, errs.Unavailable, program, fmt.Errorf("%w: %s", err, plain(said+" "+strings.TrimSpace(text.String()))))
	}
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return none, errs.New(opAuth, errs.Invalid, program, errors.New("its answer is not JSON"))
	}
	if answer.Username == tokenUser {
		return auth.Credential{RefreshToken: answer.Secret}, nil
	}
	return auth.Credential{Username: answer.Username, Password: answer.Secret}, nil
}

// limitedBuffer keeps the first 64 KiB of what is written.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	const most = 64 << 10
	if room := most - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

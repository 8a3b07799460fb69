package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"net/url"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

const opAuth = "find credentials"

// Auth is what a caller shows to pull an image (CRI AuthConfig). One of the
// forms is filled; a token is stronger than a password.
type Auth struct {
	Username, Password string
	// Auth is "username:password" in base64.
	Auth string
	// ServerAddress is whom it is for, as a host or a URL. Nobody else gets it.
	// Empty: the registry in the image's reference.
	ServerAddress string
	// IdentityToken is exchanged for access tokens at the token service.
	IdentityToken string
	// RegistryToken is an access token.
	RegistryToken string
}

// Empty says that there is nothing to show.
func (a *Auth) Empty() bool {
	return a == nil || a.Username == "" && a.Password == "" && a.Auth == "" && a.IdentityToken == "" && a.RegistryToken == ""
}

// credential gives a in the form that the wire needs.
func (a *Auth) credential() (auth.Credential, error) {
	c := auth.Credential{Username: a.Username, Password: a.Password, RefreshToken: a.IdentityToken, AccessToken: a.RegistryToken}
	if a.Auth != "" && c.Username == "" && c.Password == "" {
		var err error
		if c.Username, c.Password, err = decodeBasic(a.Auth); err != nil {
			return c, errs.New(opAuth, errs.Invalid, "auth", err)
		}
	}
	return c, nil
}

// decodeBasic reads base64 of "username:password". Errors don't repeat it.
func decodeBasic(s string) (username, password string, err error) {
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil {
		return "", "", errors.New("is not base64")
	}
	username, password, found := strings.Cut(string(data), ":")
	if !found {
		return "", "", errors.New("is not base64 of username:password")
	}
	return username, strings.TrimRight(password, "\x00"), nil
}

// serverName reduces how people write a registry to what stands in
// references: "https://index.docker.io/v1/" to "docker.io".
func serverName(address string) string {
	name := address
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		name = u.Host + u.Path
	}
	name, _, _ = strings.Cut(name, "/")
	return canonicalName(name)
}

// canonicalName gives the names of Docker's registry one form, and leaves out
// the port that https has anyway.
func canonicalName(name string) string {
	name = strings.TrimSuffix(strings.ToLower(name), ":443")
	switch name {
	case "index.docker.io", dockerHubAPI, "registry.hub.docker.com":
		return dockerHub
	}
	return name
}

// keyring finds the credentials for one pull.
type keyring struct {
	client *Client
	ref    image.Ref
	given  *Auth
}

// names gives what a host is called where credentials are kept, best first:
// the registry's own host also has the name that stands in references.
func (k *keyring) names(h host) []string {
	name := canonicalName(h.URL.Host)
	if own := canonicalName(k.ref.Registry()); h.Own && own != name {
		return []string{own, name}
	}
	return []string{name}
}

// find gives the credentials for a host; none is no error. What the caller
// gave is for the registry itself unless it says for whom, and never for
// another.
func (k *keyring) find(ctx context.Context, h host) (auth.Credential, error) {
	names := k.names(h)
	if !k.given.Empty() {
		address := serverName(k.given.ServerAddress)
		for _, name := range names {
			if address == name || k.given.ServerAddress == "" && h.Own {
				return k.given.credential()
			}
		}
	}
	repository := strings.TrimPrefix(k.ref.Repository(), k.ref.Registry())
	for _, name := range names {
		c, err := k.client.options.Credentials.find(ctx, name, repository, k.client.timing.helper)
		if err != nil || c != auth.EmptyCredential {
			return c, err
		}
	}
	return auth.EmptyCredential, nil
}

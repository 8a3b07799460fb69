package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	issuer, service = "tokens", "registry"
	identity        = "identity-token"
)

// tokenService gives out tokens (distribution, "Token Authentication"): to the
// user for everything, to others for nothing.
type tokenService struct {
	*httptest.Server
	access configuration.Auth
	signer jose.Signer
}

func newTokenService(t *testing.T) *tokenService {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenService{}
	if s.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil); err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.json")
	write(t, file, string(set))
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(t, w, r) }))
	t.Cleanup(s.Close)
	s.access = configuration.Auth{"token": {"realm": s.URL + "/token", "issuer": issuer, "service": service, "jwks": file, "signingalgorithms": []any{"ES256"}}}
	return s
}

func (s *tokenService) serve(t *testing.T, w http.ResponseWriter, r *http.Request) {
	u, p, asked := r.BasicAuth()
	good := u == user && p == password
	scopes := r.URL.Query()["scope"]
	if r.Method == http.MethodPost {
		asked, good = true, r.PostFormValue("grant_type") == "refresh_token" && r.PostFormValue("refresh_token") == identity
		scopes = strings.Fields(r.PostFormValue("scope"))
	}
	if asked && !good {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !good {
		scopes = nil
	}
	token := s.issue(t, scopes)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 60})
}

// issue makes a token for scopes such as "repository:app:pull,push".
func (s *tokenService) issue(t *testing.T, scopes []string) string {
	t.Helper()
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	granted := []access{}
	for _, scope := range scopes {
		parts := strings.Split(scope, ":")
		if len(parts) == 3 && parts[0] == "repository" {
			granted = append(granted, access{parts[0], parts[1], strings.Split(parts[2], ",")})
		}
	}
	now := time.Now()
	token, err := jwt.Signed(s.signer).Claims(jwt.Claims{
		Issuer: issuer, Audience: jwt.Audience{service}, Subject: user,
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now.Add(-time.Minute)), Expiry: jwt.NewNumericDate(now.Add(time.Minute)), ID: "1",
	}).Claims(map[string]any{"access": granted}).Serialize()
	if err != nil {
		t.Error(err)
	}
	return token
}

// authority gives the certificates of the registry and of the token service.
func (s *tokenService) authority(t *testing.T, r *server) string {
	t.Helper()
	var all []byte
	for _, der := range [][]byte{s.Certificate().Raw, r.Certificate().Raw} {
		all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(all)
}

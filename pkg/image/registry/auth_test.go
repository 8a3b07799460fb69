package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/stagelet/stagelet/internal/errs"
)

// basicOnly makes a fake ask for a user and a password.
func basicOnly(f *fake, user, password string) {
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, ok := r.BasicAuth(); ok && u == user && p == password {
			return false
		}
		w.Header().Set("Www-Authenticate", `Basic realm="here"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

// bearerOnly makes a fake ask for a token of the service at realm.
func bearerOnly(f *fake, realm, token string) {
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/token") || r.Header.Get("Authorization") == "Bearer "+token {
			return false
		}
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="reg",scope="repository:app:pull"`, realm))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

// tokenService gives out a token to whom it is told to.
func tokenService(t *testing.T, token string, to func(r *http.Request) bool) *fake {
	t.Helper()
	f := plainFake(t)
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !to(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token, "access_token": token})
		return true
	})
	return f
}

func isBasic(r *http.Request) bool {
	u, p, _ := r.BasicAuth()
	return u == "user" && p == "pass"
}

func TestFormsOfAuth(t *testing.T) {
	encoded := base64.StdEncoding.EncodeToString([]byte("user:pass"))
	anyone := func(*http.Request) bool { return true }
	identity := func(r *http.Request) bool {
		return r.Method == http.MethodPost && r.PostFormValue("grant_type") == "refresh_token" && r.PostFormValue("refresh_token") == "identity"
	}
	for row, test := range map[string]struct {
		auth   *Auth
		bearer func(*http.Request) bool // nil: a registry that asks for basic
		kind   errs.Kind
	}{
		"basic":                 {&Auth{Username: "user", Password: "pass"}, nil, ""},
		"basic, encoded":        {&Auth{Auth: encoded}, nil, ""},
		"basic, none":           {nil, nil, errs.Denied},
		"basic, wrong":          {&Auth{Username: "user", Password: "x"}, nil, errs.Denied},
		"basic, not base64":     {&Auth{Auth: "%"}, nil, errs.Invalid},
		"basic, no colon":       {&Auth{Auth: "c2VjcmV0"}, nil, errs.Invalid},
		"bearer, anonymous":     {nil, anyone, ""},
		"bearer, for basic":     {&Auth{Username: "user", Password: "pass"}, isBasic, ""},
		"bearer, encoded":       {&Auth{Auth: encoded}, isBasic, ""},
		"bearer, refused":       {nil, isBasic, errs.Denied},
		"bearer, wrong":         {&Auth{Username: "user", Password: "x"}, isBasic, errs.Denied},
		"identity token":        {&Auth{IdentityToken: "identity"}, identity, ""},
		"identity token, wrong": {&Auth{IdentityToken: "x"}, identity, errs.Denied},
		"registry token":        {&Auth{RegistryToken: "sesame"}, func(*http.Request) bool { return false }, ""},
		"registry token, wrong": {&Auth{RegistryToken: "x"}, anyone, errs.Denied},
	} {
		t.Run(row, func(t *testing.T) {
			f := plainFake(t)
			newSample().push(f, "app", "v1")
			if test.bearer == nil {
				basicOnly(f, "user", "pass")
			} else {
				bearerOnly(f, tokenService(t, "sesame", test.bearer).URL+"/token", "sesame")
			}
			_, _, err := pull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{Auth: test.auth})
			if (err == nil) != (test.kind == "") || err != nil && errs.KindOf(err) != test.kind {
				t.Errorf("%v is %q, want %q", err, errs.KindOf(err), test.kind)
			}
			if err != nil && (strings.Contains(err.Error(), "pass\"") || strings.Contains(err.Error(), "secret")) {
				t.Errorf("%v tells a secret", err)
			}
		})
	}
}

func TestOneTokenForAPull(t *testing.T) {
	f := plainFake(t)
	s := newSample(noise(1), noise(2))
	s.push(f, "app", "v1")
	tokens := tokenService(t, "sesame", func(*http.Request) bool { return true })
	bearerOnly(f, tokens.URL, "sesame")
	c, _ := mustPull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{})
	for i := range s.layers {
		if _, err := readLayer(t, c, i); err != nil {
			t.Error(err)
		}
	}
	got := tokens.requests("")
	if len(got) != 1 || got[0].URL.Query().Get("scope") != "repository:app:pull" || got[0].URL.Query().Get("service") != "reg" {
		t.Errorf("%d requests for a token, %v", len(got), got)
	}
}

func TestTokenServiceInTrouble(t *testing.T) {
	for status, kind := range map[int]errs.Kind{404: errs.Denied, 500: errs.Unavailable, 429: errs.Unavailable} {
		f := plainFake(t)
		tokens := plainFake(t)
		tokens.on(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(status); return true })
		bearerOnly(f, tokens.URL, "sesame")
		if _, _, err := pull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{}); errs.KindOf(err) != kind {
			t.Errorf("%d: %v is %q", status, err, errs.KindOf(err))
		}
	}
	f := plainFake(t)
	tokens := plainFake(t)
	tokens.on(func(w http.ResponseWriter, r *http.Request) bool { // answers and then hangs
		_, _ = io.WriteString(w, `{"token":`)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		return true
	})
	bearerOnly(f, tokens.URL, "sesame")
	if _, _, err := pull(t, hasty(testClient(t, Options{})), f.host()+"/app:v1", PullOptions{}); errs.KindOf(err) != errs.Unavailable {
		t.Error(err)
	}
}

func TestServerAddress(t *testing.T) {
	f := plainFake(t)
	newSample().push(f, "app", "v1")
	basicOnly(f, "user", "pass")
	client := testClient(t, Options{})
	for address, good := range map[string]bool{
		"": true, f.host(): true, f.URL: true, f.URL + "/v2/": true,
		"other.example": false, "https://index.docker.io/v1/": false, f.host() + "0": false,
	} {
		_, _, err := pull(t, client, f.host()+"/app:v1", PullOptions{Auth: &Auth{Username: "user", Password: "pass", ServerAddress: address}})
		if (err == nil) != good {
			t.Errorf("for %q: %v", address, err)
		}
	}
	for _, r := range f.requests("") {
		if u, _, ok := r.BasicAuth(); ok && u != "user" {
			t.Error("other credentials were sent")
		}
	}
}

func TestMirrorsGetNoCredentialsOfTheRegistry(t *testing.T) {
	mirror, origin := plainFake(t), plainFake(t)
	newSample().push(origin, "app", "v1")
	basicOnly(mirror, "user", "pass")
	basicOnly(origin, "user", "pass")
	dir := hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, mirror.URL))
	mustPull(t, testClient(t, Options{CertsDir: dir}), name+"/app:v1", PullOptions{Auth: &Auth{Username: "user", Password: "pass"}})
	for _, r := range mirror.requests("") {
		if r.Header.Get("Authorization") != "" {
			t.Error("the mirror got credentials")
		}
	}
}

func TestRedirectElsewhereCarriesNoCredentials(t *testing.T) {
	elsewhere, f := plainFake(t), plainFake(t)
	s := newSample(noise(10))
	s.push(f, "app", "v1")
	s.push(elsewhere, "app", "v1")
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case !isBasic(r):
			w.Header().Set("Www-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		default:
			return false
		}
		return true
	})
	elsewhere.on(func(_ http.ResponseWriter, r *http.Request) bool {
		for _, header := range []string{"Authorization", "X-Key", "Cookie"} {
			if r.Header.Get(header) != "" {
				t.Errorf("%s went elsewhere", header)
			}
		}
		return false
	})
	dir := hostsDir(t, name, fmt.Sprintf("server = %q\n[header]\nx-key = \"secret\"", f.URL))
	c, _ := mustPull(t, testClient(t, Options{CertsDir: dir}), name+"/app:v1", PullOptions{Auth: &Auth{Username: "user", Password: "pass"}})
	if _, err := readLayer(t, c, 0); err != nil {
		t.Error(err)
	}
	if len(elsewhere.requests("/blobs/")) != 2 || f.requests("/blobs/")[0].Header.Get("X-Key") == "" {
		t.Error("not redirected, or the header was not sent at all")
	}

	// Whoever it is that was redirected to asks in vain.
	basicOnly(elsewhere, "user", "pass")
	if _, _, err := pull(t, testClient(t, Options{CertsDir: dir}), name+"/app:v1", PullOptions{Auth: &Auth{Username: "user", Password: "pass"}}); errs.KindOf(err) != errs.Denied {
		t.Error(err)
	}
}

func TestRedirectsThatAreRefused(t *testing.T) {
	f := tlsFake(t)
	plain := plainFake(t)
	dir := hostsDir(t, name, fmt.Sprintf("server = %q\nskip_verify = true", f.URL))
	client := testClient(t, Options{CertsDir: dir})
	for to, part := range map[string]string{plain.URL: "leaves TLS", f.URL + "/v2/app/manifests/v1": "redirects"} {
		f.on(func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, to, http.StatusFound)
			return true
		})
		if _, _, err := pull(t, client, name+"/app:v1", PullOptions{}); errs.KindOf(err) != errs.Denied || !strings.Contains(err.Error(), part) {
			t.Error(err)
		}
	}
	for address, good := range map[string]bool{
		"127.0.0.1:80": false, "[::1]:80": false, "169.254.169.254:80": false, "[fe80::1]:80": false, "0.0.0.0:80": false,
		"[::ffff:127.0.0.1]:80": false, "10.0.0.1:443": true, "192.0.2.1:443": true,
	} {
		if err := refuseLocal("tcp", address, nil); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestRealmOfAnotherSite: whoever names it gets nothing that is the user's.
func TestRealmOfAnotherSite(t *testing.T) {
	for _, given := range []*Auth{{Username: "user", Password: "pass"}, {IdentityToken: "identity"}} {
		f := plainFake(t)
		newSample().push(f, "app", "v1")
		tokens := tokenService(t, "sesame", func(*http.Request) bool { return true })
		u, _ := url.Parse(tokens.URL)
		bearerOnly(f, "http://localhost:"+u.Port()+"/token", "sesame") // f is 127.0.0.1
		_, _, err := pull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{Auth: given})
		if err == nil {
			t.Error("no error")
		}
		for _, r := range tokens.requests("") {
			if r.Header.Get("Authorization") != "" || r.Method == http.MethodPost {
				t.Error("credentials went to another site")
			}
		}
	}
}

func TestSameSite(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"registry-1.docker.io", "auth.docker.io"}:       true,
		{"registry.gitlab.com", "gitlab.com"}:            true,
		{"a.example.co.uk", "b.example.co.uk"}:           true,
		{"a.co.uk", "b.co.uk"}:                           false,
		{"a.github.io", "b.github.io"}:                   false,
		{"registry.corp.internal", "auth.corp.internal"}: true,
		{"registry.example", "evil.example"}:             false,
		{"10.0.0.1", "10.0.0.1"}:                         true,
		{"10.0.0.1", "20.0.0.1"}:                         false,
		{"registry", "auth"}:                             false,
		{"com", "com.evil"}:                              false,
	} {
		if got := sameSite(pair[0], pair[1]); got != want {
			t.Errorf("%v: %t", pair, got)
		}
	}
}

func TestDockerConfig(t *testing.T) {
	const config = `{
	 "auths": {
	  "https://index.docker.io/v1/": {"auth": "aHViOnA="},
	  "reg.example": {"username": "whole", "password": "p"},
	  "reg.example/team": {"auth": "dGVhbTpw"},
	  "https://other.example:5000/v2/": {"identitytoken": "it"},
	  "token.example": {"registrytoken": "rt"},
	  "empty.example": {}
	 }, "HttpHeaders": {"a": "b"}}`
	file := filepath.Join(t.TempDir(), "config.json")
	write(t, file, config)
	c := Credentials{DockerConfigs: []string{file + ".missing", file}}
	for at, want := range map[[2]string]auth.Credential{
		{"docker.io", "/library/busybox"}: {Username: "hub", Password: "p"},
		{"reg.example", "/app"}:           {Username: "whole", Password: "p"},
		{"reg.example", "/teams/app"}:     {Username: "whole", Password: "p"},
		{"reg.example", "/team/app"}:      {Username: "team", Password: "p"},
		{"reg.example", "/team"}:          {Username: "team", Password: "p"},
		{"other.example:5000", "/app"}:    {RefreshToken: "it"},
		{"token.example", "/app"}:         {AccessToken: "rt"},
		{"empty.example", "/app"}:         {},
		{"reg.example:5000", "/app"}:      {},
		{"example", "/app"}:               {},
	} {
		if got, err := c.find(t.Context(), at[0], at[1], time.Second); err != nil || got != want {
			t.Errorf("%v: %+v, %v", at, got, err)
		}
	}
	for _, broken := range []string{`{`, `{"auths": 1}`, `{"auths":{"reg.example":{"auth":"c2VjcmV0"}}}`, `{"auths":{"reg.example":{"auth":"secret!"}}}`, `[]`, `{"credsStore":"../x"}`} {
		write(t, file, broken)
		_, err := c.find(t.Context(), "reg.example", "/app", time.Second)
		if errs.KindOf(err) != errs.Invalid || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v is %q", broken, err, errs.KindOf(err))
		}
	}
}

// helpers puts credential helpers into PATH.
func helpers(t *testing.T, all map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range all {
		path := filepath.Join(dir, "docker-credential-"+name)
		write(t, path, "#!/bin/sh\n"+script)
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestCredentialHelpers(t *testing.T) {
	helpers(t, map[string]string{
		"good":  `read -r s; [ "$1" = get ] && echo "{\"ServerURL\":\"$s\",\"Username\":\"$s\",\"Secret\":\"p\"}"`,
		"token": `echo '{"Username":"<token>","Secret":"it"}'`,
		"none":  `echo credentials not found in native keychain; exit 1`,
		"fails": `echo locked; exit 1`,
		"odd":   `echo hello`,
		"hangs": `sleep 60 & sleep 60`,
	})
	file := filepath.Join(t.TempDir(), "config.json")
	write(t, file, `{"credsStore": "good", "auths": {"none.example": {"username":"file","password":"p"}},
	 "credHelpers": {"token.example":"token","none.example":"none","fails.example":"fails","odd.example":"odd","hangs.example":"hangs","gone.example":"gone","bad.example":"a/b"}}`)
	c := Credentials{DockerConfigs: []string{file}}
	for name, want := range map[string]struct {
		credential auth.Credential
		kind       errs.Kind
	}{
		"any.example":   {auth.Credential{Username: "any.example", Password: "p"}, ""},
		"docker.io":     {auth.Credential{Username: "https://index.docker.io/v1/", Password: "p"}, ""},
		"token.example": {auth.Credential{RefreshToken: "it"}, ""},
		"none.example":  {auth.Credential{Username: "file", Password: "p"}, ""},
		"fails.example": {kind: errs.Unavailable},
		"odd.example":   {kind: errs.Invalid},
		"hangs.example": {kind: errs.Timeout},
		"gone.example":  {kind: errs.Unavailable},
		"bad.example":   {kind: errs.Invalid},
	} {
		limit := patience
		if want.kind == errs.Timeout {
			limit = 100 * time.Millisecond
		}
		got, err := c.find(context.Background(), name, "/app", limit)
		if got != want.credential || (err == nil) != (want.kind == "") || err != nil && errs.KindOf(err) != want.kind {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestAuthDir(t *testing.T) {
	local, system := t.TempDir(), t.TempDir()
	c := Credentials{AuthDirs: []string{local, filepath.Join(local, "missing"), system}}
	write(t, filepath.Join(system, "a.json"), `{"rktKind":"auth","rktVersion":"v1","domains":["a.example","b.example"],"type":"basic","credentials":{"user":"system","password":"p"}}`)
	write(t, filepath.Join(local, "b.json"), `{"rktKind":"auth","rktVersion":"v1","domains":["b.example"],"type":"oauth","credentials":{"token":"t"}}`)
	write(t, filepath.Join(local, "c.json"), `{"rktKind":"dockerAuth","rktVersion":"v1","registries":["index.docker.io","both.example"],"credentials":{"user":"docker","password":"p"}}`)
	write(t, filepath.Join(local, "d.json"), `{"rktKind":"auth","rktVersion":"v1","domains":["both.example"],"type":"oauth","credentials":{"token":"t"}}`)
	write(t, filepath.Join(local, "e.json"), `{"rktKind":"auth","rktVersion":"v1","domains":["aws.example"],"type":"aws","credentials":{"accessKeyID":"a"}}`)
	write(t, filepath.Join(local, "notes.txt"), `no JSON`)
	for name, want := range map[string]auth.Credential{
		"a.example": {Username: "system", Password: "p"}, "b.example": {AccessToken: "t"}, "docker.io": {Username: "docker", Password: "p"},
		"both.example": {Username: "docker", Password: "p"}, "none.example": {}, "sub.a.example": {},
	} {
		if got, err := c.find(t.Context(), name, "/app", time.Second); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := c.find(t.Context(), "aws.example", "/app", time.Second); errs.KindOf(err) != errs.Unsupported {
		t.Error(err)
	}
	for _, broken := range []string{
		`{`, `[]`,
		`{"rktKind":"auth","rktVersion":"v2","domains":["x"],"type":"oauth","credentials":{"token":"secret"}}`,
		`{"rktKind":"paths","rktVersion":"v1"}`,
		`{"rktKind":"auth","rktVersion":"v1","type":"oauth","credentials":{"token":"secret"}}`,
		`{"rktKind":"auth","rktVersion":"v1","domains":["x"],"type":"oauth","credentials":{}}`,
		`{"rktKind":"auth","rktVersion":"v1","domains":["x"],"type":"basic","credentials":{"user":"secret"}}`,
		`{"rktKind":"dockerAuth","rktVersion":"v1","registries":["both.example"],"credentials":{"user":"secret","password":"p"}}`,
	} {
		path := filepath.Join(local, "z.json")
		write(t, path, broken)
		_, err := c.find(t.Context(), "both.example", "/app", time.Second)
		if errs.KindOf(err) != errs.Invalid || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", broken, err)
		}
	}
}

func TestCredentialsOfTheMachine(t *testing.T) {
	f := plainFake(t)
	newSample().push(f, "app", "v1")
	basicOnly(f, "user", "pass")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.json"), fmt.Sprintf(`{"rktKind":"dockerAuth","rktVersion":"v1","registries":[%q],"credentials":{"user":"user","password":"pass"}}`, f.host()))
	o := Options{Credentials: Credentials{AuthDirs: []string{dir}}}
	mustPull(t, testClient(t, o), f.host()+"/app:v1", PullOptions{})
	write(t, filepath.Join(dir, "a.json"), `{`)
	if _, _, err := pull(t, testClient(t, o), f.host()+"/app:v1", PullOptions{}); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}

func FuzzAuthFile(f *testing.F) {
	f.Add([]byte(`{"rktKind":"auth","rktVersion":"v1","domains":["a"],"type":"basic","credentials":{"user":"u","password":"p"}}`))
	f.Add([]byte(`{"rktKind":"dockerAuth","rktVersion":"v1","registries":["a"],"credentials":{"user":"u","password":"p"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, names, entry, err := parseAuthFile(data)
		if err == nil && (len(names) == 0 || entry.err == nil && entry.credential == auth.EmptyCredential) {
			t.Error("accepted, and of no use")
		}
	})
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnA="}}}`), "docker.io", "/library/busybox")
	f.Fuzz(func(_ *testing.T, data []byte, name, repository string) {
		c, err := parseDockerConfig(data)
		if err != nil {
			return
		}
		c.CredsStore, c.CredHelpers = "", nil // programs are not for fuzzing
		_, _ = c.find(context.Background(), name, repository, time.Second)
	})
}

// TestTokenThatExpires: a pull takes longer than tokens live.
func TestTokenThatExpires(t *testing.T) {
	f, tokens := plainFake(t), plainFake(t)
	s := newSample(noise(100_000), noise(10))
	s.push(f, "app", "v1")
	var issued, valid, cuts atomic.Int32
	tokens.on(func(w http.ResponseWriter, _ *http.Request) bool {
		_ = json.NewEncoder(w).Encode(map[string]string{"token": fmt.Sprint("token-", issued.Add(1))})
		return true
	})
	valid.Store(1)
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != fmt.Sprint("Bearer token-", valid.Load()) {
			w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="reg",scope="repository:app:pull"`, tokens.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.HasSuffix(r.URL.Path, s.manifest.Layers[0].Digest.String()) && cuts.Add(1) == 1 {
			valid.Add(1) // in the middle of a layer
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(s.layers[0][:50_000])
			cut(w)
		}
		return false
	})
	c, _ := mustPull(t, testClient(t, Options{}), f.host()+"/app:v1", PullOptions{})
	for i, want := range s.layers {
		if got, err := readLayer(t, c, i); err != nil || !bytes.Equal(got, want) {
			t.Errorf("layer %d: %d bytes, %v", i, len(got), err)
		}
		valid.Add(1) // and between two
		issued.Store(valid.Load() - 1)
	}
}

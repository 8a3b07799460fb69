package e2e

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// write puts a file below the server's directory, and gives its path.
func (s *server) write(t testing.TB, mode os.FileMode, content string, elem ...string) string {
	t.Helper()
	path := s.path(elem...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *server) pullWith(ref string, auth *cri.AuthConfig) error {
	_, err := s.images.PullImage(s.ctx, &cri.ImageSpec{Image: ref}, auth, nil)
	return err
}

// TestCredentialsOfThePull: imagePullSecrets, in the forms that kubelet knows.
func TestCredentialsOfThePull(t *testing.T) {
	s := startServer(t)
	r := newRegistry(t)
	s.allow(t, r, "")
	ref := r.push(t, "private", "v1")
	r.password = "secret"
	basic := base64.StdEncoding.EncodeToString([]byte(registryUser + ":secret"))
	for name, auth := range map[string]*cri.AuthConfig{
		"password":         {Username: registryUser, Password: "secret"},
		"auth":             {Auth: basic},
		"for the registry": {Username: registryUser, Password: "secret", ServerAddress: "http://" + r.host + "/v1/"},
	} {
		if err := s.pullWith(ref, auth); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.mustCLI("image", "rm", ref)
	}
	for name, auth := range map[string]*cri.AuthConfig{
		"none":               nil,
		"wrong password":     {Username: registryUser, Password: "guessed"},
		"for somebody else":  {Username: registryUser, Password: "secret", ServerAddress: "https://other.example"},
		"token for password": {RegistryToken: "secret"},
	} {
		text := wantCode(t, s.pullWith(ref, auth), codes.PermissionDenied)
		if strings.Contains(text, "secret") || strings.Contains(text, basic) {
			t.Errorf("%s: the error tells the password: %s", name, text)
		}
	}
	// What one caller may have is there for all; that is kubelet's to keep apart.
	if err := s.pullWith(ref, &cri.AuthConfig{Auth: "not base64"}); err == nil {
		t.Error("nonsense was taken for credentials")
	}
}

// TestCredentialsOfTheMachine: files, and a helper, for pulls and for fetch.
func TestCredentialsOfTheMachine(t *testing.T) {
	for name, give := range map[string]func(s *server, r *imageRegistry){
		"auth.d": func(s *server, r *imageRegistry) {
			s.write(t, 0o600, fmt.Sprintf(`{"rktKind":"auth","rktVersion":"v1","domains":[%q],"type":"basic","credentials":{"user":%q,"password":"secret"}}`,
				r.host, registryUser), "auth.d", "private.json")
		},
		"auth.d of registries": func(s *server, r *imageRegistry) {
			s.write(t, 0o600, fmt.Sprintf(`{"rktKind":"dockerAuth","rktVersion":"v1","registries":[%q],"credentials":{"user":%q,"password":"secret"}}`,
				r.host, registryUser), "auth.d", "private.json")
		},
		"docker config": func(s *server, r *imageRegistry) {
			file := s.write(t, 0o600, fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":"secret"}}}`, r.host, registryUser), "config.json")
			s.args = append(s.args, "--docker-config", file)
		},
		"credential helper": func(s *server, r *imageRegistry) {
			file := s.write(t, 0o600, fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, r.host), "config.json")
			helper := s.write(t, 0o755, fmt.Sprintf("#!/bin/sh\nread host; [ \"$1 $host\" = 'get %s' ] || exit 1\n"+
				`echo '{"Username":"%s","Secret":"secret"}'`+"\n", r.host, registryUser), "helpers", "docker-credential-test")
			s.env = append(s.env, "PATH="+filepath.Dir(helper)+":"+os.Getenv("PATH"))
			s.args = append(s.args, "--docker-config", file)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			r := newRegistry(t)
			s.allow(t, r, "")
			ref := r.push(t, "private", "v1")
			r.password = "secret"
			give(s, r)
			s.start()
			t.Cleanup(s.finish)
			s.mustPull(t, ref)
			s.mustCLI("image", "rm", ref)
			s.mustCLI("fetch", "docker://"+ref)
		})
	}
}

// TestMirrors: hosts are asked in the order of the file, a dead one costs one
// attempt, and a host that may not resolve is not asked for tags.
func TestMirrors(t *testing.T) {
	s := startServer(t)
	digests, all := newRegistry(t), newRegistry(t)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deadURL := "http://" + dead.Addr().String()
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	layer := randomLayer(9, 1<<20)
	digests.push(t, "app", "v1", layer)
	digests.tags = map[string]string{"app:v1": "sha256:" + strings.Repeat("0", 64)} // what it would lie
	all.push(t, "app", "v1", layer)
	s.write(t, 0o600, fmt.Sprintf("server = \"http://registry.invalid\"\n[host.%q]\n[host.%q]\ncapabilities = [\"pull\"]\n[host.%q]\n",
		deadURL, digests.http.URL, all.http.URL), "certs.d", "registry.invalid", "hosts.toml")
	s.write(t, 0o600, "insecure: true\n", "trust", "prefix.d", "registry.invalid", "insecure.yaml")
	s.mustPull(t, "registry.invalid/app:v1")
	if n := digests.served.Load(); n < 1<<20 {
		t.Errorf("the first mirror that lives gave %d bytes", n)
	}
	if n := all.served.Load(); n != 0 {
		t.Errorf("the second one gave %d bytes", n)
	}
	st, err := s.images.ImageStatus(s.ctx, &cri.ImageSpec{Image: "registry.invalid/app:v1"}, false)
	if err != nil || len(st.Image.GetRepoDigests()) != 1 || !strings.HasPrefix(st.Image.GetRepoDigests()[0], "registry.invalid/app@") {
		t.Errorf("%v, %v", st, err)
	}
	s.write(t, 0o600, "sever = \"x\"\n", "certs.d", "registry.invalid", "hosts.toml")
	if text := wantCode(t, s.pullWith("registry.invalid/app:v1", nil), codes.InvalidArgument); !strings.Contains(text, "sever") {
		t.Errorf("the misspelt key is not named: %s", text)
	}
}

// TestPolicyOfAnotherProgram: policy.json decides instead of our own rules.
func TestPolicyOfAnotherProgram(t *testing.T) {
	s := newServer(t)
	r := newRegistry(t)
	ref := r.push(t, "app", "v1")
	policy := s.write(t, 0o600, fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"insecureAcceptAnything"}]}}}`, r.host), "policy.json")
	s.args = append(s.args, "--policy-json", policy)
	s.start()
	t.Cleanup(s.finish)
	s.mustPull(t, ref)
	s.write(t, 0o600, `{"default":[{"type":"reject"}]}`, "policy.json")
	s.allow(t, r, "") // which says nothing then
	wantPrefix(t, s.pullWith(ref, nil), "SignatureValidationFailed: ")
}

// TestProxyOfTheEnvironment: a name that nobody can resolve is the proxy's to
// resolve.
func TestProxyOfTheEnvironment(t *testing.T) {
	s := newServer(t)
	r := newRegistry(t) // which is asked as a proxy is: the path is all it looks at
	r.push(t, "app", "v1", randomLayer(8, 1<<20))
	s.write(t, 0o600, "server = \"http://registry.invalid\"\n", "certs.d", "registry.invalid", "hosts.toml")
	s.write(t, 0o600, "insecure: true\n", "trust", "prefix.d", "registry.invalid", "insecure.yaml")
	s.env = append(s.env, "HTTP_PROXY="+r.http.URL, "NO_PROXY=")
	s.start()
	t.Cleanup(s.finish)
	s.mustPull(t, "registry.invalid/app:v1")
	s.mustCLI("image", "rm", "registry.invalid/app:v1")
	s.mustCLI("fetch", "registry.invalid/app:v1")
	s.kill()
	s.env = append(s.env, "NO_PROXY=registry.invalid")
	s.start()
	wantPrefix(t, s.pullWith("registry.invalid/other:v1", nil), "RegistryUnavailable: ")
}

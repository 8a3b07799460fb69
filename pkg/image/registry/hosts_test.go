package registry

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// name is a registry that no test can reach by itself.
const name = "registry.example"

func TestMirrorsAreAskedInOrder(t *testing.T) {
	first, second, origin := plainFake(t), plainFake(t), plainFake(t)
	s := newSample(noise(10))
	s.push(second, "app", "v1")
	s.push(origin, "app", "v1")
	dir := hostsDir(t, name, fmt.Sprintf(`
server = %q
[host.%q]
  capabilities = ["pull", "resolve"]
[host.%q.header]
  x-mirror = ["a", "b"]
`, origin.URL, first.URL, second.URL))
	c, _ := mustPull(t, testClient(t, Options{CertsDir: dir}), name+"/app:v1", PullOptions{})
	if _, err := readLayer(t, c, 0); err != nil {
		t.Error(err)
	}
	if len(first.requests("/manifests/v1")) != 1 || len(origin.requests("")) != 0 {
		t.Error("not asked in the order of the file")
	}
	for _, r := range second.requests("") {
		if got := r.Header.Values("X-Mirror"); len(got) != 2 || r.URL.Query().Get("ns") != name {
			t.Errorf("%s with X-Mirror %v", r.URL, got)
		}
	}
}

func TestMirrorThatMayNotResolve(t *testing.T) {
	mirror, origin := plainFake(t), plainFake(t)
	s := newSample(noise(10))
	s.push(origin, "app", "v1")
	newSample().push(mirror, "app", "v1") // another image under the same tag
	s.push(mirror, "app", "other")
	dir := hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\"]\n", origin.URL, mirror.URL))
	client := testClient(t, Options{CertsDir: dir})
	c, _ := mustPull(t, client, name+"/app:v1", PullOptions{})
	if !bytes.Equal(c.Manifest, s.data) || len(mirror.requests("/manifests/v1")) > 0 {
		t.Error("the mirror resolved a tag")
	}
	if _, err := readLayer(t, c, 0); err != nil || len(mirror.requests("/blobs/")) != 2 {
		t.Errorf("the mirror was asked for %d blobs, %v", len(mirror.requests("/blobs/")), err)
	}

	write(t, filepath.Join(dir, name, "hosts.toml"), fmt.Sprintf("server = %q\ncapabilities = [\"pull\"]\n", mirror.URL))
	if _, _, err := pull(t, client, name+"/app:v1", PullOptions{}); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
	mustPull(t, client, name+"/app@"+s.digest.String(), PullOptions{})
}

// deadHost accepts connections and says nothing.
func deadHost(t *testing.T) (url string, asked *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	asked = &atomic.Int32{}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	return "http://" + l.Addr().String(), asked
}

func TestDeadMirrorCostsOneTimeout(t *testing.T) {
	testutil.CheckLeaks(t)
	dead, asked := deadHost(t)
	origin := plainFake(t)
	s := newSample(noise(1), noise(2), noise(3), noise(4))
	s.push(origin, "app", "v1")
	client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, dead))})
	client.timing.header = 3 * time.Second
	for range 3 {
		c, _ := mustPull(t, client, name+"/app:v1", PullOptions{})
		for i := range s.layers {
			if _, err := readLayer(t, c, i); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the dead mirror was asked %d times", n)
	}
}

func TestMirrorThatComesBack(t *testing.T) {
	mirror, origin := plainFake(t), plainFake(t)
	s := newSample(noise(1))
	s.push(origin, "app", "v1")
	s.push(mirror, "app", "v1")
	mirror.on(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, mirror.URL))})
	mustPull(t, client, name+"/app:v1", PullOptions{})
	before := len(mirror.requests(""))
	mustPull(t, client, name+"/app:v1", PullOptions{})
	if len(mirror.requests("")) != before {
		t.Error("a mirror in trouble was asked again at once")
	}
	mirror.on(nil)
	for _, b := range client.breakers {
		b.until = time.Now()
	}
	at := len(origin.requests(""))
	mustPull(t, client, name+"/app:v1", PullOptions{})
	if len(origin.requests("")) != at {
		t.Error("the mirror works again and is not asked")
	}
}

func TestMirrorThatDiesInTheMiddle(t *testing.T) {
	mirror, origin := plainFake(t), plainFake(t)
	s := newSample(noise(100_000))
	s.push(origin, "app", "v1")
	s.push(mirror, "app", "v1")
	client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, mirror.URL))})
	c, _ := mustPull(t, client, name+"/app:v1", PullOptions{})
	var n atomic.Int32
	mirror.on(func(w http.ResponseWriter, _ *http.Request) bool {
		if n.Add(1) == 1 {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(s.layers[0][:40_000])
		}
		cut(w)
		return true
	})
	if got, err := readLayer(t, c, 0); err != nil || !bytes.Equal(got, s.layers[0]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	blobs := origin.requests("/blobs/")
	if len(blobs) != 1 || blobs[0].Header.Get("Range") == "" {
		t.Errorf("the origin was asked %d times", len(blobs))
	}
}

func TestMirrorThatLies(t *testing.T) {
	mirror, origin := plainFake(t), plainFake(t)
	s := newSample(noise(1))
	s.push(origin, "app", "v1")
	mirror.put("app/manifests/"+s.digest.String(), s.manifest.MediaType, append(s.data, ' '))
	mirror.put("app/blobs/"+s.manifest.Config.Digest.String(), "", bytes.ToUpper(s.config))
	client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, mirror.URL))})
	mustPull(t, client, name+"/app@"+s.digest.String(), PullOptions{})
}

func TestMirrorThatLiesAboutALayer(t *testing.T) {
	mirror, origin := plainFake(t), plainFake(t)
	s := newSample(noise(1000))
	s.push(origin, "app", "v1")
	s.push(mirror, "app", "v1")
	mirror.put("app/blobs/"+s.manifest.Layers[0].Digest.String(), "", noise(1001)[:1000])
	client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, mirror.URL))})
	c, _ := mustPull(t, client, name+"/app:v1", PullOptions{})
	if _, err := readLayer(t, c, 0); !errors.Is(err, image.Mismatch) || !strings.Contains(err.Error(), mirror.URL) {
		t.Error(err)
	}
	if got, err := readLayer(t, c, 0); err != nil || !bytes.Equal(got, s.layers[0]) {
		t.Errorf("the mirror was believed again: %v", err)
	}
}

// TestLastWordCounts: what a mirror says doesn't decide on what the error is.
func TestLastWordCounts(t *testing.T) {
	mirror, origin := plainFake(t), plainFake(t)
	client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, mirror.URL))})
	origin.on(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	_, _, err := pull(t, client, name+"/app:v1", PullOptions{})
	if errs.KindOf(err) != errs.Unavailable || errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), mirror.URL) {
		t.Error(err)
	}
}

func tlsFake(t *testing.T) *fake { t.Helper(); return newFake(t, httptest.NewTLSServer) }

func TestTLS(t *testing.T) {
	f := tlsFake(t)
	f.Config.ErrorLog = nil
	s := newSample()
	s.push(f, "app", "v1")
	ca := authority(t, f.Server)
	for text, good := range map[string]bool{
		"":                           false,
		fmt.Sprintf("ca = %q", ca):   true,
		fmt.Sprintf("ca = [%q]", ca): true,
		"skip_verify = true":         true,
		fmt.Sprintf("ca = %q\nskip_verify = false", ca): true,
	} {
		client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf("server = %q\n%s", f.URL, text))})
		_, _, err := pull(t, client, name+"/app:v1", PullOptions{})
		if good && err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if !good && (errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "certificate")) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestSkipVerifyByOption(t *testing.T) {
	f, plain := tlsFake(t), plainFake(t)
	newSample().push(f, "app", "v1")
	newSample().push(plain, "app", "v1")
	dir := hostsDir(t, name, fmt.Sprintf("server = %q", f.URL))
	client := testClient(t, Options{CertsDir: dir, SkipVerify: func(registry string) bool { return registry != "other.example" }})
	for _, reference := range []string{f.host() + "/app:v1", plain.host() + "/app:v1", name + "/app:v1"} {
		mustPull(t, client, reference, PullOptions{})
	}
	addHosts(t, dir, "other.example", fmt.Sprintf("server = %q", f.URL))
	if _, _, err := pull(t, client, "other.example/app:v1", PullOptions{}); errs.KindOf(err) != errs.Unavailable {
		t.Error(err)
	}
}

// clientPair makes a certificate that signs itself, and gives its files.
func clientPair(t *testing.T, dir string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "client.cert"), filepath.Join(dir, "client.key")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(parsed)
	return cert, key, pool
}

// TestClientCertificates in all the forms of "client", and in Docker's
// directory; where a redirect leads, they are not shown.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	cert, key, pool := clientPair(t, filepath.Join(dir, name))
	elsewhere := tlsFake(t)
	var shown atomic.Bool
	elsewhere.TLS.ClientAuth = tls.RequestClientCert
	elsewhere.on(func(_ http.ResponseWriter, r *http.Request) bool {
		shown.Store(shown.Load() || len(r.TLS.PeerCertificates) > 0)
		return false
	})
	f := newFake(t, func(h http.Handler) *httptest.Server {
		s := httptest.NewUnstartedServer(h)
		s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
		s.StartTLS()
		return s
	})
	s := newSample(noise(10))
	s.push(f, "app", "v1")
	s.push(elsewhere, "app", "v1")
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, s.manifest.Layers[0].Digest.String()) {
			return false
		}
		http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	write(t, filepath.Join(dir, name, "ca.crt"), readFile(t, authority(t, f.Server)))
	both := filepath.Join(dir, "both.pem")
	write(t, both, readFile(t, cert)+readFile(t, key))
	for _, text := range []string{
		fmt.Sprintf("client = %q", both),
		fmt.Sprintf("client = [%q]", both),
		`client = [["client.cert", "client.key"]]`,
		fmt.Sprintf(`client = [[%q, ""]]`, both),
	} {
		addHosts(t, dir, name, fmt.Sprintf("server = %q\nca = \"ca.crt\"\n%s", f.URL, text))
		c, _ := mustPull(t, testClient(t, Options{CertsDir: dir}), name+"/app:v1", PullOptions{})
		if _, err := readLayer(t, c, 0); err != nil || shown.Load() {
			t.Errorf("%v, shown elsewhere: %t", err, shown.Load())
		}
	}

	docker := t.TempDir()
	for _, file := range []string{"ca.crt", "client.cert", "client.key"} {
		write(t, filepath.Join(docker, f.host(), file), readFile(t, filepath.Join(dir, name, file)))
	}
	mustPull(t, testClient(t, Options{CertsDir: docker}), f.host()+"/app:v1", PullOptions{})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := readSmall(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestOverridePath(t *testing.T) {
	for text, root := range map[string]string{
		`server = "%s/prefix"`:                          "/prefix/v2/app/",
		`server = "%s/prefix/v2"`:                       "/prefix/v2/app/",
		"server = \"%s/prefix\"\noverride_path = true":  "/prefix/app/",
		"server = \"%s/a/../b/\"\noverride_path = true": "/b/app/",
	} {
		f := plainFake(t)
		client := testClient(t, Options{CertsDir: hostsDir(t, name, fmt.Sprintf(text, f.URL))})
		_, _, _ = pull(t, client, name+"/app:v1", PullOptions{})
		if seen := f.requests(""); len(seen) != 1 || seen[0].URL.Path != root+"manifests/v1" {
			t.Errorf("%s: asked for %v", text, seen)
		}
	}
}

func TestDirectoriesOfARegistry(t *testing.T) {
	f := plainFake(t)
	newSample().push(f, "app", "v1")
	text := fmt.Sprintf("server = %q", f.URL)
	for dir, reference := range map[string]string{
		name:            name + "/app:v1",
		name + ":5000":  name + ":5000/app:v1",
		name + "_5000_": name + ":5000/app:v1",
		"_default":      name + "/app:v1",
	} {
		mustPull(t, testClient(t, Options{CertsDir: hostsDir(t, dir, text)}), reference, PullOptions{})
	}
	dir := hostsDir(t, name, text)
	addHosts(t, dir, "_default", "server = \"http://127.0.0.1:1\"")
	client := testClient(t, Options{CertsDir: dir})
	mustPull(t, client, name+"/app:v1", PullOptions{})
	if _, _, err := pull(t, client, "other.example/app:v1", PullOptions{}); errs.KindOf(err) != errs.Unavailable {
		t.Error(err)
	}
}

func TestPlainHTTPOnlyWhereAllowed(t *testing.T) {
	allowed := func(registry string) bool { return registry == "plain.example" }
	c := testClient(t, Options{PlainHTTP: allowed})
	for registry, want := range map[string]string{
		"plain.example": "http", "other.example": "https", "10.0.0.1:5000": "https",
		"127.0.0.1:1": "https", "localhost:1": "https", "localhost.example": "https",
		plainFake(t).host(): "http", tlsFake(t).host(): "https",
	} {
		if got := c.ownHost(t.Context(), registry).URL.Scheme; got != want {
			t.Errorf("%s is reached by %s, want %s", registry, got, want)
		}
	}
	for address, want := range map[string]bool{"localhost": true, "127.9.9.9:5000": true, "[::1]:5000": true, "[::1]": true, "localhost.example": false, "128.0.0.1": false} {
		if isLoopback(address) != want {
			t.Errorf("%s is on the loopback: %t", address, !want)
		}
	}
	dir := hostsDir(t, plainFake(t).host(), "skip_verify = true")
	entries, err := readHostDir(dir+"/"+only(t, dir), c.ownHost(t.Context(), plainFake(t).host()))
	if err != nil || entries[0].URL.Scheme != "https" {
		t.Errorf("%+v, %v", entries, err)
	}
}

func only(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	return entries[0].Name()
}

func TestBrokenHostsFile(t *testing.T) {
	for text, part := range map[string]string{
		"server = ":                                    "",
		"servr = \"https://a\"":                        "servr",
		"capabilitie = [\"pull\"]":                     "capabilitie",
		"[host.\"https://a\"]\ncapabilitie = []":       "capabilitie",
		"[host.\"https://a\"]\ncapabilities = [\"x\"]": "pull, resolve",
		"[host.\"ftp://a\"]":                           "http",
		"[host.\"https://user:secret@a\"]":             "form",
		"[host.\"https://\"]":                          "form",
		"ca = 1":                                       "ca",
		"ca = \"missing.crt\"":                         "missing.crt",
		"client = [[\"a\",\"b\",\"c\"]]":               "client",
		"client = [1]":                                 "client",
		"dial_timeout = \"soon\"":                      "dial_timeout",
		"dial_timeout = \"-1s\"":                       "dial_timeout",
		"proxy = \"gopher://a\"":                       "proxy",
		"[header]\n\"a b\" = \"c\"":                    "header",
		"[header]\na = \"b\\nc\"":                      "header",
		"[header]\na = 1":                              "header",
		"host = {\"https://a\" = {}}":                  "order",
		strings.Repeat("x", maxConfigFile+1):           "more than",
	} {
		client := testClient(t, Options{CertsDir: hostsDir(t, name, text)})
		_, _, err := pull(t, client, name+"/app:v1", PullOptions{})
		if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), name) {
			t.Errorf("%.60q: %v", text, err)
		}
		if k := errs.KindOf(err); k != errs.Invalid && !errors.Is(err, fs.ErrNotExist) && k != errs.Exhausted {
			t.Errorf("%.60q: %v is %q", text, err, k)
		}
		if strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%v tells a secret", err)
		}
	}
}

func TestBreaker(t *testing.T) {
	now := time.Now()
	b := &breaker{open: time.Second, limit: 3 * time.Second}
	check := func(after time.Duration, want bool) {
		t.Helper()
		if got := b.allow(now.Add(after)); got != want {
			t.Errorf("after %s: %t", after, got)
		}
	}
	check(0, true)
	b.failed(now)
	b.failed(now) // sent together
	check(999*time.Millisecond, false)
	check(time.Second, true)
	check(time.Second, false) // one finds out for all
	b.failed(now.Add(time.Second))
	check(2999*time.Millisecond, false)
	check(3*time.Second, true)
	b.answered()
	check(3*time.Second, true)
	check(3*time.Second, true)
}

// TestDocumentedFiles parses the examples of the documentation.
func TestDocumentedFiles(t *testing.T) {
	own := New(Options{}).ownHost(t.Context(), "docker.io")
	blocks := strings.Split(readFile(t, "../../../docs/registries.md"), "```")
	found := map[string]int{}
	for i := 1; i < len(blocks); i += 2 {
		form, text, _ := strings.Cut(blocks[i], "\n")
		var err error
		switch form {
		case "toml":
			var hosts []host
			hosts, err = parseHosts([]byte(text), own)
			if len(hosts) != 3 || hosts[1].Can != canPull {
				t.Errorf("%+v", hosts)
			}
		case "json":
			_, _, _, err = parseAuthFile([]byte(text))
		}
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		found[form]++
	}
	if found["toml"] == 0 || found["json"] == 0 {
		t.Errorf("examples: %v", found)
	}
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"https://b:5000/x\"]\ncapabilities = [\"pull\"]\nca = [\"a\"]\nclient = [[\"a\",\"b\"]]\n[host.\"https://b:5000/x\".header]\na = [\"b\"]\n"))
	f.Add([]byte("proxy = \"http://p\"\nskip_verify = true\noverride_path = true\ndial_timeout = \"1s\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		own := New(Options{}).ownHost(t.Context(), name)
		hosts, err := parseHosts(data, own)
		if err != nil {
			return
		}
		if len(hosts) == 0 {
			t.Fatal("no host, and no error")
		}
		for _, h := range hosts {
			if h.URL.Host == "" || h.URL.Scheme != "http" && h.URL.Scheme != "https" || h.URL.User != nil {
				t.Errorf("%+v", h)
			}
		}
	})
}

package registry

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
)

// TestProxyByEnvironment needs a process of its own: the environment is read
// once.
func TestProxyByEnvironment(t *testing.T) {
	const child = "STAGELET_TEST_PROXY"
	if os.Getenv(child) != "" {
		mustPull(t, testClient(t, Options{PlainHTTP: func(string) bool { return true }}), name+"/app:v1", PullOptions{})
		if _, _, err := pull(t, testClient(t, Options{PlainHTTP: func(string) bool { return true }}), "direct.invalid/app:v1", PullOptions{}); errs.KindOf(err) != errs.Unavailable {
			t.Error(err)
		}
		return
	}
	f := plainFake(t)
	newSample().push(f, "app", "v1")
	target, _ := url.Parse(f.URL)
	var n atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		if r.URL.Host != name {
			t.Errorf("asked for %s", r.URL)
		}
		r.URL.Host = target.Host
		f.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyByEnvironment$")
	cmd.Env = append(os.Environ(), child+"=1", "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL, "NO_PROXY=direct.invalid")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n.Load() != 2 {
		t.Errorf("%d requests through the proxy", n.Load())
	}
}

func TestProxyOfAHost(t *testing.T) {
	f := plainFake(t)
	newSample().push(f, "app", "v1")
	dir := hostsDir(t, name, "server = \"http://registry.invalid\"\nproxy = \""+f.URL+"\"")
	mustPull(t, testClient(t, Options{CertsDir: dir}), name+"/app:v1", PullOptions{})
}

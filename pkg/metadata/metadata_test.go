package metadata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

const (
	ofACI = `{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/aci","annotations":[{"name":"authors","value":"image"},{"name":"homepage","value":"https://example.com"}]}`
	aciID = "sha512:" // and 128 digits
)

// node has one pod, of two apps: one of an ACI, one of another image.
type node struct{ pod *pod.Snapshot }

func (n node) Pod(id string) (*pod.Snapshot, error) {
	if id != n.pod.Pod.ID {
		return nil, errs.New("find pod", errs.NotFound, id, nil)
	}
	return n.pod, nil
}

func (n node) Leased(owner string, id image.Digest) (*image.Record, error) {
	if !slices.ContainsFunc(n.pod.Apps, func(a pod.App) bool { return a.ID == owner && a.Image.ID == string(id) }) {
		return nil, errs.New("find image", errs.NotFound, string(id), errors.New(owner+" has not leased it"))
	}
	r := &image.Record{ID: id}
	if id == "aci" {
		r.AppC = &image.AppC{ID: image.Digest(aciID + strings.Repeat("ab", 64))}
	}
	return r, nil
}

func (node) AppCManifest(r *image.Record) ([]byte, error) {
	if r.AppC == nil {
		return nil, errs.New("read image manifest", errs.NotFound, string(r.ID), errors.New("it was not made from an ACI"))
	}
	return []byte(ofACI), nil
}

func testPod(id string) *pod.Snapshot {
	return &pod.Snapshot{
		State: pod.Running,
		Pod: &manifest.Pod{
			ID: id, Annotations: map[string]string{"ip-address": "10.1.2.3", "example.com/b": "c"},
			Namespaces: manifest.Namespaces{Network: manifest.NamespacePod},
			Volumes:    []manifest.EmptyVolume{{Name: "work", Mode: 0o700, UID: 7}, {Name: "plain"}},
			Ports:      []manifest.PortMapping{{Protocol: "tcp", HostPort: 80, PodPort: 8080}},
			Metadata:   &manifest.Metadata{Port: Port, Token: strings.Repeat("t", 64)},
		},
		Apps: []pod.App{
			{App: &manifest.App{ID: "a1", Name: "one", Image: manifest.AppImage{ID: "aci"}, Args: []string{"/one"}, Env: []string{"A=b=c"}, Cwd: "/", Annotations: map[string]string{"authors": "pod"}}},
			{App: &manifest.App{ID: "a2", Name: "two", Image: manifest.AppImage{ID: "sha256:cd"}, Args: []string{"/two"}, Cwd: "/", User: manifest.User{UID: 5, GID: 6, AdditionalGIDs: []uint32{6, 7}}}},
		},
	}
}

func id(digit string) string { return strings.Repeat(digit, 64) }

func service(t *testing.T, root string, p *pod.Snapshot) *Service {
	t.Helper()
	n := node{p}
	s, err := New(Options{Root: root, Pods: n, Images: n, Warn: func(err error, what string) { t.Errorf("%s: %v", what, err) }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// call gives status and body of an answer, the form making it a POST.
func call(h http.Handler, path string, form ...string) (int, string, http.Header) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if form != nil {
		values := neturl.Values{}
		for i := 0; i < len(form); i += 2 {
			values.Set(form[i], form[i+1])
		}
		r = httptest.NewRequest(http.MethodPost, path, strings.NewReader(values.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

func TestEntries(t *testing.T) {
	p := testPod(id("a"))
	s := service(t, t.TempDir(), p)
	h := s.handler(p.Pod.ID, p.Pod.Metadata.Token)
	base := "/" + p.Pod.Metadata.Token + "/acMetadata/v1/"
	for path, want := range map[string]string{
		"pod/uuid":                         "aaaaaaaa-aaaa-8aaa-aaaa-aaaaaaaaaaaa",
		"pod/annotations":                  `[{"name":"example.com/b","value":"c"},{"name":"ip-address","value":"10.1.2.3"}]`,
		"pod/annotations/":                 `[{"name":"example.com/b","value":"c"},{"name":"ip-address","value":"10.1.2.3"}]`,
		"pod/annotations/ip-address":       "10.1.2.3",
		"pod/annotations/example.com/b":    "c",
		"apps/one/annotations/":            `[{"name":"authors","value":"pod"},{"name":"homepage","value":"https://example.com"}]`,
		"apps/one/annotations/homepage":    "https://example.com",
		"apps/two/annotations":             "[]",
		"apps/one/image/manifest":          ofACI,
		"apps/one/image/id":                "sha512-" + strings.Repeat("ab", 64),
		"apps/two/image/id":                "sha256:cd",
		"apps/two/image/manifest":          "404",
		"apps/three/image/id":              "404",
		"apps/one/annotations/absent":      "404",
		"pod/annotations/absent":           "404",
		"pod/absent":                       "404",
		"pod/hmac/sign":                    "405",
		"../../" + id("x") + "/uuid":       "307", // the path is cleaned first
		"apps/one/image/manifest/and/more": "404",
	} {
		code, body, header := call(h, base+path)
		if code != http.StatusOK {
			body = fmt.Sprint(code)
		} else if header.Get("Metadata-Flavor") != "AppContainer" {
			t.Errorf("%s: it says %v", path, header)
		}
		if body != want {
			t.Errorf("%s: %s", path, body)
		}
	}
	for _, token := range []string{"", "x", p.Pod.Metadata.Token + "t", p.Pod.Metadata.Token[1:], strings.Repeat("T", 64), p.Pod.ID} {
		if code, _, _ := call(h, "/"+token+"/acMetadata/v1/pod/uuid"); code == http.StatusOK {
			t.Errorf("the token %q is good", token)
		}
	}
}

func TestPodManifest(t *testing.T) {
	p := testPod(id("a"))
	s := service(t, t.TempDir(), p)
	code, body, _ := call(s.handler(p.Pod.ID, "x"), "/x/acMetadata/v1/pod/manifest")
	var m appc.PodManifest
	if err := json.Unmarshal([]byte(body), &m); err != nil || code != http.StatusOK {
		t.Fatal(code, err)
	}
	m.Apps[1].Image.ID = m.Apps[0].Image.ID // the form knows no sha256
	sound, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := appc.ParsePodManifest(sound); err != nil {
		t.Errorf("%v:\n%s", err, body)
	}
	if v := m.Apps[0].App.Environment[0]; v.Name != "A" || v.Value != "b=c" || m.Apps[0].Image.Name != "example.com/aci" || m.Volumes[0].Mode != "700" || m.Volumes[1].Mode != "755" {
		t.Errorf("%s", body)
	}
}

// A signature is good for every pod of the node, and after a restart; for no
// other pod's name, content, or node.
func TestSignatures(t *testing.T) {
	root := t.TempDir()
	one, two := testPod(id("1")), testPod(id("2"))
	signer := service(t, root, one).handler(one.Pod.ID, "x")
	verifier := service(t, root, two).handler(two.Pod.ID, "x")
	stranger := service(t, t.TempDir(), two).handler(two.Pod.ID, "x")
	const sign, verify = "/x/acMetadata/v1/pod/hmac/sign", "/x/acMetadata/v1/pod/hmac/verify"
	code, signature, _ := call(signer, sign, "content", "hello")
	if code != http.StatusOK {
		t.Fatal(code, signature)
	}
	by := uuidOf(one.Pod.ID).String()
	for name, c := range map[string]struct {
		h    http.Handler
		form []string
		want int
	}{
		"another pod":      {verifier, []string{"content", "hello", "uuid", by, "signature", signature}, http.StatusOK},
		"other content":    {verifier, []string{"content", "Hello", "uuid", by, "signature", signature}, http.StatusForbidden},
		"other signer":     {verifier, []string{"content", "hello", "uuid", uuidOf(two.Pod.ID).String(), "signature", signature}, http.StatusForbidden},
		"another node":     {stranger, []string{"content", "hello", "uuid", by, "signature", signature}, http.StatusForbidden},
		"cut off":          {verifier, []string{"content", "hello", "uuid", by, "signature", signature[:8]}, http.StatusForbidden},
		"no base64":        {verifier, []string{"content", "hello", "uuid", by, "signature", "?"}, http.StatusBadRequest},
		"no uuid":          {verifier, []string{"content", "hello", "uuid", one.Pod.ID, "signature", signature}, http.StatusBadRequest},
		"nothing":          {verifier, []string{}, http.StatusBadRequest},
		"nothing to sign":  {signer, []string{"content", ""}, http.StatusBadRequest},
		"too much content": {verifier, []string{"content", strings.Repeat("x", maxBody), "uuid", by, "signature", signature}, http.StatusRequestEntityTooLarge},
	} {
		path := verify
		if c.h == signer {
			path = sign
		}
		if code, body, _ := call(c.h, path, c.form...); code != c.want {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
}

func TestDamagedKeyIsKept(t *testing.T) {
	root := t.TempDir()
	half := filepath.Join(root, "metadata", ".tmp-1-1-hmac.key")
	if err := errors.Join(os.Mkdir(filepath.Dir(half), 0o700), os.WriteFile(half, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	service(t, root, testPod(id("a")))
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a key is left: %v", err)
	}
	path := filepath.Join(root, "metadata", "hmac.key")
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatal(fi, err)
	}
	if err := os.Truncate(path, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Root: root}); !errors.Is(err, errs.Corrupt) {
		t.Errorf("got %v", err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != 5 {
		t.Errorf("the key was replaced: %v, %v", fi, err)
	}
}

func TestRegister(t *testing.T) {
	plan := func(mode manifest.NamespaceMode) *stage0.Plan {
		return &stage0.Plan{Pod: manifest.Pod{Namespaces: manifest.Namespaces{Network: mode}}, Init: make([]stage0.AppRequest, 1), Apps: make([]stage0.AppRequest, 2)}
	}
	one, two := plan(manifest.NamespacePod), plan(manifest.NamespaceHost)
	for _, p := range []*stage0.Plan{one, two} {
		if err := Register(p); err != nil {
			t.Fatal(err)
		}
		for _, a := range append(p.Init, p.Apps...) {
			if len(a.Env) != 2 || a.Env[0] != "AC_APP_NAME=" || a.Env[1] != fmt.Sprintf("AC_METADATA_URL=http://127.0.0.1:%d/%s", p.Pod.Metadata.Port, p.Pod.Metadata.Token) {
				t.Errorf("%q", a.Env)
			}
		}
	}
	if a, b := one.Pod.Metadata, two.Pod.Metadata; a.Port != Port || b.Port == Port || a.Token == b.Token || len(a.Token) != 64 {
		t.Errorf("%+v %+v", a, b)
	}
}

// Who isn't registered, or has no network yet, is left alone.
func TestAttendsToWhoIsRegistered(t *testing.T) {
	p := testPod(id("a"))
	n := node{p}
	var warned []string
	s, err := New(Options{Root: t.TempDir(), Pods: n, Images: n, Warn: func(_ error, what string) { warned = append(warned, what) }})
	if err != nil {
		t.Fatal(err)
	}
	s.Attend(p)()
	if len(warned) != 1 || !strings.Contains(warned[0], p.Pod.ID) {
		t.Errorf("a pod without a network: %q", warned)
	}
	p.State = pod.Exited
	s.Attend(p)()
	p.State, p.Pod.Metadata = pod.Running, nil
	s.Attend(p)()
	if len(warned) != 1 {
		t.Errorf("warned of %q", warned)
	}
	s.Wait()
}

// Of two pods each finds its own service at the same address, and nobody finds
// either outside. When they are left, their namespaces are gone.
func TestEachInItsOwnNamespace(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	var leave []func()
	var all []*pod.Snapshot
	for _, digit := range []string{"1", "2"} {
		p := testPod(id(digit))
		p.Pod.Metadata.Token = id(digit)
		p.Network = &manifest.Network{NetNS: filepath.Join(dir, digit)}
		if err := sys.NewNetNS(p.Network.NetNS); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sys.RemoveNetNS(p.Network.NetNS) })
		s := service(t, dir, p)
		t.Cleanup(s.Wait)
		leave = append(leave, s.Attend(p))
		all = append(all, p)
	}
	dial := func(where *pod.Snapshot) Dial {
		return func(ctx context.Context, _ string, port uint16) (f *os.File, err error) {
			err = sys.InNetNS(where.Network.NetNS, func() error {
				f, err = sys.DialLoopback(ctx, port)
				return err
			})
			return f, err
		}
	}
	for _, p := range all {
		if err := Await(context.Background(), p.Pod, dial(p)); err != nil {
			t.Error(err)
		}
	}
	soon, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := Await(soon, all[0].Pod, dial(all[1])); !errors.Is(err, errs.Unavailable) || strings.Contains(err.Error(), id("1")+"/") {
		t.Errorf("one pod in the other: %v", err)
	}
	held, err := dial(all[0])(context.Background(), "", Port)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, l := range leave {
		l()
	}
	// The server has hung up, so that no socket of it keeps the namespace.
	c, err := net.FileConn(held)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection is still there: %v", err)
	}
	if _, err := dial(all[0])(context.Background(), "", Port); !errors.Is(err, errs.Unavailable) {
		t.Errorf("it listens still: %v", err)
	}
	soon, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := Await(soon, all[0].Pod, dial(all[0])); !errors.Is(err, errs.Unavailable) || strings.Contains(err.Error(), id("1")+"/") {
		t.Errorf("nobody listens: %v", err)
	}
}

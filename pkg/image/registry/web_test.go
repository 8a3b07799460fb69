package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// webFake is a web server with TLS, whose authority the directory of hosts
// names.
func webFake(t *testing.T, dir string) *fake {
	t.Helper()
	f := tlsFake(t)
	addHosts(t, dir, f.host(), fmt.Sprintf("ca = %q\n", authority(t, f.Server)))
	return f
}

func (f *fake) text(path, body string) {
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == path {
			_, _ = io.WriteString(w, body)
		}
		return r.URL.Path == path
	})
}

func openAll(ctx context.Context, c *Client, address string, limit int64) ([]byte, int64, error) {
	f, err := c.Open(ctx, address, "", "", limit)
	if err != nil {
		return nil, 0, err
	}
	data, err := io.ReadAll(f)
	return data, f.Size, errors.Join(err, f.Close())
}

func TestPages(t *testing.T) {
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	f := webFake(t, dir)
	f.text("/app", "a page")
	c := testClient(t, Options{CertsDir: dir, UserAgent: "stagelet/test"})
	data, from, err := c.Page(t.Context(), f.URL+"/app?ac-discovery=1", "")
	if err != nil || string(data) != "a page" || from != f.URL+"/app?ac-discovery=1" {
		t.Errorf("%q from %s, %v", data, from, err)
	}
	if r := f.requests("/app")[0]; r.Header.Get("User-Agent") != "stagelet/test" || r.URL.RawQuery != "ac-discovery=1" {
		t.Errorf("asked for %s as %s", r.URL, r.UserAgent())
	}
	for address, kind := range map[string]errs.Kind{
		f.URL + "/other": errs.NotFound,
		strings.Replace(f.URL, "https", "http", 1) + "/app": errs.Denied,
		"javascript:alert(1)":                               errs.Invalid,
		"file:///etc/passwd":                                errs.Invalid,
		"https://me:secret@" + f.host() + "/app":            errs.Invalid,
		"https:///app":                                      errs.Invalid,
		"https://" + strings.Repeat("a", 2000):              errs.Invalid,
	} {
		if _, _, err := c.Page(t.Context(), address, ""); errs.KindOf(err) != kind || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, _, err := testClient(t, Options{}).Page(t.Context(), f.URL+"/app", ""); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("unknown authority: %v", err)
	}
	if _, _, err := testClient(t, Options{SkipVerify: func(string) bool { return true }}).Page(t.Context(), f.URL+"/app", ""); err != nil {
		t.Error(err)
	}
	plain := plainFake(t)
	plain.text("/app", "a page")
	if _, _, err := testClient(t, Options{PlainHTTP: func(string) bool { return true }}).Page(t.Context(), plain.URL+"/app", ""); err != nil {
		t.Error(err)
	}
}

// What a page of another machine names doesn't lie on this one.
func TestPagesDoNotSendUsHome(t *testing.T) {
	dir := t.TempDir()
	f := webFake(t, dir)
	f.text("/app", "a page")
	c := testClient(t, Options{CertsDir: dir})
	if _, _, err := c.Page(t.Context(), f.URL+"/app", "https://example.com/"); err == nil || len(f.requests("")) > 0 {
		t.Errorf("%v, asked %d times", err, len(f.requests("")))
	}
	if _, _, err := c.Page(t.Context(), f.URL+"/app", "https://127.0.0.1/"); err != nil {
		t.Error(err)
	}
}

func TestWebCredentialsStayWithTheirOrigin(t *testing.T) {
	dir, auths := t.TempDir(), t.TempDir()
	first, second := webFake(t, dir), webFake(t, dir)
	second.text("/file", "bytes")
	first.on(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, second.URL+"/file", http.StatusFound)
		return true
	})
	write(t, filepath.Join(auths, "a.json"), `{"rktKind":"auth","rktVersion":"v1","domains":["`+first.host()+`"],"type":"basic","credentials":{"user":"me","password":"secret"}}`)
	write(t, filepath.Join(auths, "b.json"), `{"rktKind":"dockerAuth","rktVersion":"v1","registries":["`+second.host()+`"],"credentials":{"user":"me","password":"other"}}`)
	c := testClient(t, Options{CertsDir: dir, Credentials: Credentials{AuthDirs: []string{auths}}})
	if data, _, err := openAll(t.Context(), c, first.URL+"/file", 100); err != nil || string(data) != "bytes" {
		t.Fatalf("%q, %v", data, err)
	}
	if user, password, _ := first.requests("/file")[0].BasicAuth(); user != "me" || password != "secret" {
		t.Errorf("credentials %s:%s", user, password)
	}
	if h := second.requests("/file")[0].Header.Get("Authorization"); h != "" {
		t.Errorf("the other origin got %s", h)
	}
	if _, _, err := c.Page(t.Context(), second.URL+"/file", first.URL); err != nil || second.requests("/file")[1].Header.Get("Authorization") != "" {
		t.Errorf("credentials of a registry went to a web server: %v", err)
	}
	write(t, filepath.Join(auths, "a.json"), `{"rktKind":"auth","rktVersion":"v1","domains":["`+first.host()+`"],"type":"oauth","credentials":{"token":"t"}}`)
	if _, _, err := c.Page(t.Context(), first.URL+"/file", ""); err != nil || first.requests("/file")[1].Header.Get("Authorization") != "Bearer t" {
		t.Error(err)
	}
	write(t, filepath.Join(auths, "c.json"), `{"rktKind":"auth","rktVersion":"v1","domains":["`+first.host()+`"],"type":"oauth","credentials":{"token":"u"}}`)
	if _, _, err := c.Page(t.Context(), first.URL+"/file", ""); errs.KindOf(err) != errs.Invalid {
		t.Error(err)
	}
}

func TestWebRedirects(t *testing.T) {
	dir := t.TempDir()
	f := webFake(t, dir)
	to := f.URL + "/again"
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, to, http.StatusFound)
		return true
	})
	c := testClient(t, Options{CertsDir: dir, PlainHTTP: func(string) bool { return true }})
	for _, target := range []string{f.URL + "/again", strings.Replace(f.URL, "https", "http", 1), "file:///etc/passwd"} {
		to = target
		if _, _, err := c.Page(t.Context(), f.URL+"/", ""); err == nil || errs.KindOf(err) == errs.NotFound {
			t.Errorf("%s: %v", to, err)
		}
	}
}

func TestFilesAreResumed(t *testing.T) {
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	f := webFake(t, dir)
	want := noise(1 << 20)
	tag, breaks := `"v1"`, 3
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if tag != "" {
			w.Header().Set("Etag", tag)
		}
		if breaks == 0 {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(want))
			return true
		}
		breaks--
		var from int
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); n == 1 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(want)-1, len(want)))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(want)))
		}
		_, _ = w.Write(want[from : from+200_000])
		panic(http.ErrAbortHandler)
	})
	c := testClient(t, Options{CertsDir: dir})
	got, size, err := openAll(t.Context(), c, f.URL+"/file", 1<<20)
	if err != nil || size != 1<<20 || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, %v", len(got), size, err)
	}
	for name, without := range map[string]string{"no ETag": "", "a weak ETag": `W/"v1"`} {
		tag, breaks = without, 1
		if _, _, err := openAll(t.Context(), c, f.URL+"/file", 1<<20); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The file is replaced meanwhile.
	tag, breaks = `"v1"`, 1
	body, err := c.Open(t.Context(), f.URL+"/file", "", "", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	tag = `"v2"`
	if _, err := io.ReadAll(body); err == nil || !strings.Contains(err.Error(), "another one now") {
		t.Errorf("replaced: %v", err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}

// A file that is known isn't sent again, and tags are a URL's own.
func TestKnownFilesAreNotSent(t *testing.T) {
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	f := webFake(t, dir)
	tag := `"v1"`
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/file", http.StatusFound)
			return true
		}
		w.Header().Set("Etag", tag)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("content"))
		return true
	})
	c := testClient(t, Options{CertsDir: dir})
	for _, step := range []struct{ path, tag, known, want string }{
		{"/file", `"v1"`, "", `"v1"`},
		{"/file", `"v1"`, `"v1"`, "unchanged"},
		{"/file", `"v2"`, `"v1"`, `"v2"`},
		{"/file", `W/"v2"`, "", ""},
		{"/file", `unquoted`, "", ""},
		{"/file", "\"\xff\"", "", ""},
		{"/file", `"` + strings.Repeat("x", maxTag) + `"`, "", ""},
		{"/away", `"v1"`, "", ""},
		{"/away", `"v1"`, `"v1"`, ""},
	} {
		tag = step.tag
		file, err := c.Open(t.Context(), f.URL+step.path, "", step.known, 1<<20)
		if step.want == "unchanged" {
			if !errors.Is(err, image.ErrUnchanged) {
				t.Errorf("%+v: %v", step, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", step, err)
			continue
		}
		data, err := io.ReadAll(file)
		if err = errors.Join(err, file.Close()); err != nil || string(data) != "content" || file.Tag != step.want {
			t.Errorf("%+v: %q called %s, %v", step, data, file.Tag, err)
		}
	}
	// Nobody asked whether it is the same: that is no answer.
	f.on(func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusNotModified); return true })
	if _, err := c.Open(t.Context(), f.URL+"/file", "", "", 1<<20); err == nil || errors.Is(err, image.ErrUnchanged) {
		t.Errorf("not asked: %v", err)
	}
}

func TestFilesAreBounded(t *testing.T) {
	testutil.CheckLeaks(t)
	dir := t.TempDir()
	f := webFake(t, dir)
	c := testClient(t, Options{CertsDir: dir})
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/announced":
			w.Header().Set("Content-Length", "1000000")
		case "/short":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "short")
			return true
		case "/drip":
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				select {
				case <-time.After(20 * time.Millisecond):
				case <-r.Context().Done():
				}
			}
			return true
		}
		for r.Context().Err() == nil { // without end
			if _, err := w.Write(noise(1 << 10)); err != nil {
				break
			}
		}
		return true
	})
	c.timing.page, c.timing.window = 100*time.Millisecond, 200*time.Millisecond
	if _, _, err := c.Page(t.Context(), f.URL+"/drip", ""); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "longer than 100ms") {
		t.Errorf("a page that comes slowly: %v", err)
	}
	c.timing.page = time.Minute
	if _, _, err := openAll(t.Context(), c, f.URL+"/drip", 10_000); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a file that comes slowly: %v", err)
	}
	c.timing.window = patience
	for path, fault := range map[string]error{"/announced": image.TooLarge, "/endless": image.TooLarge, "/short": errs.Unavailable} {
		if _, _, err := openAll(t.Context(), c, f.URL+path, 10_000); !errors.Is(err, fault) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, _, err := c.Page(t.Context(), f.URL+"/endless", ""); !errors.Is(err, image.TooLarge) {
		t.Error(err)
	}
}

func TestSpeaks(t *testing.T) {
	status, kind, version := http.StatusOK, "application/json", ""
	f := plainFake(t)
	f.on(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", kind)
		if version != "" {
			w.Header().Set("Docker-Distribution-Api-Version", version)
		}
		w.WriteHeader(status)
		return true
	})
	c := testClient(t, Options{})
	for _, x := range []struct {
		status        int
		kind, version string
		want          bool
	}{
		{200, "application/json", "", true},
		{200, "text/html; charset=utf-8", "", false},
		{401, "text/html", "", true},
		{404, "text/html", "", false},
		{404, "text/plain", "registry/2.0", true},
		{405, "text/html", "", false},
		{503, "text/html", "", true},
	} {
		status, kind, version = x.status, x.kind, x.version
		if got, err := c.Speaks(t.Context(), ref(t, f.host()+"/app")); got != x.want || err != nil {
			t.Errorf("%+v: %v, %v", x, got, err)
		}
	}
	f.Close()
	if _, err := c.Speaks(t.Context(), ref(t, f.host()+"/app")); errs.KindOf(err) != errs.Unavailable {
		t.Error(err)
	}
}

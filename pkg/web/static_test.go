package web

import (
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The page is its own files alone, none of them refused by its own policy or by
// a browser that doesn't guess types.
func TestStaticFiles(t *testing.T) {
	var names []string
	texts := map[string]string{}
	err := fs.WalkDir(static, "static", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(static, path)
		name := strings.TrimPrefix(path, "static/")
		names, texts[name] = append(names, name), string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h := New(Options{Token: token})
	types := map[string]string{"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
	used := map[string]bool{"index.html": true}
	references := regexp.MustCompile(`(?:src|href)="([^"#]+)"|from "\./([^"]+)"`)
	for _, name := range names {
		path := "/" + strings.TrimSuffix(name, "index.html")
		w := ask(h, "GET", path, nil)
		if want := types[name[strings.LastIndexByte(name, '.')+1:]]; w.Code != http.StatusOK || !strings.HasPrefix(w.Header().Get("Content-Type"), want) {
			t.Errorf("%s: %d, %s, want %s", path, w.Code, w.Header().Get("Content-Type"), want)
		}
		for _, m := range references.FindAllStringSubmatch(texts[name], -1) {
			used[m[1]+m[2]] = true
		}
		for what, forbidden := range map[string]string{
			"an address elsewhere":  `(?i)https?://(?:[^w]|w[^w])`,
			"markup made of data":   `\.(innerHTML|outerHTML) *=|insertAdjacentHTML|document\.write|\beval\(`,
			"a script in the page":  `(?i)<script(?:>| type="module">)`,
			"a style in the page":   `(?i)<style| style="|setAttribute\("style"`,
			"a handler in the page": `(?i)<[^>]* on[a-z]+="`,
		} {
			if m := regexp.MustCompile(forbidden).FindString(texts[name]); m != "" {
				t.Errorf("%s has %s: %s", name, what, m)
			}
		}
	}
	for name := range used {
		if !slices.Contains(names, name) {
			t.Errorf("there is no %s", name)
		}
	}
	for _, name := range names {
		if !used[name] {
			t.Errorf("nothing uses %s", name)
		}
	}
	for _, path := range []string{"/static/", "/../web.go", "/..%2fweb.go", "/nothing"} {
		if w := ask(h, "GET", path, nil); w.Code == http.StatusOK {
			t.Errorf("%s is served", path)
		}
	}
	if w := ask(h, "POST", "/", nil); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

// Package web drives the built program's web page in a browser, as people use
// it, and looks at what became of what they did.
package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/host"
)

// node is a server with a page.
type node struct {
	*host.Host
	t     *testing.T
	url   string // of the page, with no slash at its end
	token string
}

// newNode starts one, which accepts unsigned images of those prefixes.
func newNode(t *testing.T, insecure ...string) *node {
	t.Helper()
	cni := testutil.NeedCNI(t)
	testutil.NeedRunc(t)
	testutil.NeedBusybox(t)
	testutil.CheckLeaks(t)
	h, err := host.New(t, testutil.Binaries(t), cni, "web: {listen: \"127.0.0.1:0\"}\n")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{Host: h, t: t}
	for _, prefix := range insecure {
		n.accept(prefix)
	}
	if err := n.Serve(); err != nil {
		t.Fatal(err)
	}
	found := n.logged(regexp.MustCompile(`(?m)^web page: (http://127\.0\.0\.1:\d+)/#token=(\S+)$`))
	n.url, n.token = found[1], found[2]
	return n
}

// accept writes the rule that takes unsigned images of a prefix.
func (n *node) accept(prefix string) {
	n.t.Helper()
	path := n.Path("trust", "prefix.d", prefix, "insecure.yaml")
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte("insecure: true\n"), 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// logged waits until the server has said something.
func (n *node) logged(what *regexp.Regexp) []string {
	n.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		log, err := os.ReadFile(n.Path("server.log"))
		if found := what.FindStringSubmatch(string(log)); found != nil {
			return found
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the server doesn't say %s: %v\n%s", what, err, log)
		}
	}
}

// command runs a command that has to succeed.
func (n *node) command(args ...string) string {
	n.t.Helper()
	out, err := n.Command(args...)
	if err != nil {
		n.t.Fatalf("stagelet %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// listed is an image as the command lists it.
type listed struct {
	ID   string
	Tags []string
}

func (n *node) images() (all []listed) {
	n.t.Helper()
	if err := json.Unmarshal([]byte(n.command("image", "list", "-o", "json")), &all); err != nil {
		n.t.Fatal(err)
	}
	return all
}

// isEmpty fails the test unless there is nothing of any image.
func (n *node) isEmpty() {
	n.t.Helper()
	if all := n.images(); len(all) != 0 {
		n.t.Errorf("there are images: %+v", all)
	}
	if out, err := n.Command("fsck"); err != nil {
		n.t.Errorf("fsck: %v\n%s", err, out)
	}
	for _, dir := range []string{"staging", "layers", "blobs", "records"} {
		var left []os.DirEntry
		var err error
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			if left, err = os.ReadDir(n.Path("lib", "images", dir)); err != nil || len(left) == 0 || time.Now().After(deadline) {
				break
			}
		}
		if err != nil || len(left) != 0 {
			n.t.Errorf("%s has %v, %v", dir, left, err)
		}
	}
}

// save writes an archive, and gives its path.
func (n *node) save(name string, write func(io.Writer) error) string {
	n.t.Helper()
	path := n.Path(name)
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(write(f), f.Close())
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return path
}

// app is an image of busybox and some megabytes, as "docker save" has it.
func app(name string) func(io.Writer) error {
	ballast := busybox.Regular("ballast", 0o644, []byte(strings.Repeat("0123456789abcdef", 64<<10)))
	return busybox.Image{Name: name, Layers: [][]busybox.File{{ballast}}}.WriteDocker
}

// nameless is an image that has no name in its archive.
func nameless(w io.Writer) error {
	var archive bytes.Buffer
	if err := app("x")(&archive); err != nil {
		return err
	}
	// As long as what it replaces, as the archive says how long manifest.json is.
	data := bytes.Replace(archive.Bytes(), []byte(`"RepoTags":["x"]`), []byte(`"RepoTags":null `), 1)
	_, err := w.Write(data)
	return err
}

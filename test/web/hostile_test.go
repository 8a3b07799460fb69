package web

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/hostile"
	"github.com/stagelet/stagelet/pkg/image"
)

// bad is a file that has to be refused.
type bad struct {
	name string
	data func(t testing.TB) []byte
	says string
}

// badFiles are all that there are: archives that are wrong themselves, and
// images that are, in each form that they can have.
func badFiles() (all []bad) {
	archives := hostile.Archives()
	for _, a := range hostile.ACIs() {
		a.Name = "ACI, " + a.Name
		archives = append(archives, a)
	}
	for _, a := range archives {
		if a.Named == "" { // what else is asked for, a form on the page checks
			b := bad{a.Name, a.Data, a.Says}
			if errors.Is(a.Want, image.Nameless) {
				b.says = "has no name" // and a field for one
			}
			all = append(all, b)
		}
	}
	for _, a := range hostile.Images() {
		all = append(all, bad{"OCI, image with " + a.Name, func(t testing.TB) []byte { return a.Image(t).Layout() }, a.Says})
		if !a.NeedsManifest {
			all = append(all, bad{"docker, image with " + a.Name, func(t testing.TB) []byte { return a.Image(t).DockerSave() }, a.Says})
		}
	}
	return all
}

// TestFormsOfArchives: what has nothing wrong with it is taken in, in each form
// that there is.
func TestFormsOfArchives(t *testing.T) {
	n := newNode(t, "docker.io")
	b := n.open(desktop())
	aci := hostile.ACI(t)
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"docker.tar":    {hostile.New(t).DockerSave(), "docker save"},
		"docker.tar.gz": {hostile.Pack(t, image.Gzip, hostile.DockerSave(t, "one:1").Pack(t)), "uncompressed"},
		"two.tar":       {hostile.DockerSave(t, "one:1", "two:2").Pack(t), "with 2 images"},
		"oci.tar":       {hostile.New(t).Layout(), "OCI image layout"},
		"oci.tar.zst":   {hostile.Pack(t, image.Zstd, hostile.New(t).Layout()), "OCI image layout"},
		"app.aci":       {acibuild.Tar(t, aci[0], aci[1:]...), "App Container Image"},
	} {
		t.Run(name, func(t *testing.T) {
			n.t, b.t = t, t
			if err := os.WriteFile(n.Path(name), c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			b.drop("#drop", n.Path(name))
			b.await(`document.querySelector(%q)?.querySelector("h3").textContent === %q`, upload, name)
			b.ends("done")
			b.says(c.says)
			for _, i := range n.images() {
				b.await(`document.querySelector("#images article[data-id='%s']")`, i.ID)
				n.pullsBack(strings.TrimPrefix(n.url, "http://")+"/"+i.Tags[0], i.ID)
				n.command("image", "rm", i.ID)
			}
			b.says("There are no images")
		})
		n.t, b.t = t, t
	}
}

// TestHostileArchives: whatever is wrong with a file that somebody drops, the
// page says what, and nothing is kept of it.
func TestHostileArchives(t *testing.T) {
	n := newNode(t, "docker.io")
	b := n.open(desktop())
	for i, f := range badFiles() {
		t.Run(f.name, func(t *testing.T) {
			n.t, b.t = t, t
			path := n.Path(fmt.Sprintf("bad-%d.tar", i))
			if err := os.WriteFile(path, f.data(t), 0o600); err != nil {
				t.Fatal(err)
			}
			b.drop("#drop", path)
			b.await(`document.querySelector(%q)?.querySelector("h3").textContent === "bad-%d.tar"`, upload, i)
			b.ends("refused")
			lines := b.told()
			if len(lines) == 0 {
				t.Fatalf("nothing is told; the page says:\n%s", b.text())
			}
			last := lines[len(lines)-1]
			if last[0] != "refused" || last[1] != "no" || len(last[2]) < 10 || !strings.Contains(last[2]+" ", strings.TrimLeft(f.says, " ")) {
				t.Errorf("%q is not in %q", f.says, last)
			}
			if len(last[2]) > 2000 || strings.Contains(last[2], "panic") {
				t.Errorf("nobody reads %q", last[2])
			}
			b.says("Nothing of it was kept")
			if i == 0 {
				b.screenshot("images-refused")
			}
			b.do(chromedp.Click(chromedp.CSS(upload + " .head button")))
			b.await(`document.querySelector(%q) === null`, upload)
			n.isEmpty()
		})
		n.t, b.t = t, t
	}
}

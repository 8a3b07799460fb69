package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/image"
)

// TestPullsKilledAtEveryPoint kills whoever pulls at every crash point of the
// image store that a pull comes by: the server in PullImage, and the command.
// The next start has no half image, and the pull done again goes on with what
// is there.
func TestPullsKilledAtEveryPoint(t *testing.T) {
	for name, pull := range map[string]func(*pullCrash, *testing.T){"PullImage": (*pullCrash).serve, "fetch": (*pullCrash).fetch} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t)
			r := newRegistry(t)
			s.allow(t, r, "")
			points := slices.DeleteFunc(crashPoints(t), func(point string) bool { return !strings.HasPrefix(point, "store.") })
			var died []string
			all := true // unless -run picks some
			for _, point := range append(points, midLayer) {
				c := &pullCrash{server: s, registry: r, point: point, mark: s.path("pull-mark-" + point)}
				if t.Run(point, func(t *testing.T) { pull(c, t) }) && c.inPull {
					died = append(died, point)
				}
				all = all && c.ran
			}
			for _, point := range append(beforeCommit(), committed) {
				if !slices.Contains(died, point) && all && !t.Failed() {
					t.Errorf("no pull died at %s, but at %q", point, died)
				}
			}
		})
	}
}

// Where a layer is partly there.
const (
	partialGrown = "store.partial-grown"
	midLayer     = partialGrown + ":5"
)

// committed is the one point of a pull at which its image has a name.
const committed = "store.committed"

// beforeCommit are the others.
func beforeCommit() []string {
	return []string{
		"store.session-made", partialGrown, midLayer, "store.layer-unpacked", "store.layer-held", "store.layer-published",
		"store.staged", "store.synced", "store.blob-published", "store.record-written",
	}
}

// pullCrash is the test of one point.
type pullCrash struct {
	*server
	registry    *imageRegistry
	point, mark string
	ran         bool
	inPull      bool // the point was passed by a pull
}

func (c *pullCrash) env() []string {
	return []string{crash.Env + "=" + c.point, crash.MarkEnv + "=" + c.mark}
}

func (c *pullCrash) passed() bool {
	_, err := os.Stat(c.mark)
	return err == nil
}

// serve lets the server die in PullImage.
func (c *pullCrash) serve(t *testing.T) {
	c.during(t)
	c.ran = true
	ref := c.push(t)
	c.kill()
	c.launch(c.env()...)
	if err := c.connect(); err != nil || c.passed() { // not in a pull
		if !c.passed() {
			t.Fatal(err)
		}
		c.kill()
		c.start()
		return
	}
	_, err := c.pull(ref, "")
	c.inPull = err != nil && c.passed()
	if err != nil && !c.inPull {
		t.Fatal(err)
	}
	c.kill()
	c.start()
	c.goOn(t, ref)
}

// fetch lets the command die, beside a server.
func (c *pullCrash) fetch(t *testing.T) {
	c.during(t)
	c.ran = true
	ref := c.push(t)
	_, err := c.cliWith(c.env(), nil, "fetch", ref)
	c.inPull = err != nil && c.passed()
	if err != nil && !c.inPull {
		t.Fatal(err)
	}
	c.mustCLI("gc") // as the server does when it starts, and now and then
	c.goOn(t, ref)
}

// push makes an image of small layers and one that is kept while it is
// fetched.
func (c *pullCrash) push(t *testing.T) (ref string) {
	small := func(name string) []busybox.File {
		return []busybox.File{busybox.Regular(name, 0o644, []byte(t.Name()))}
	}
	ref = c.registry.push(t, "crash", strings.NewReplacer(".", "-", ":", "-").Replace(c.point), small("a"), randomLayer(byte(serial.Add(1)), 2<<20), small("b"))
	c.registry.requests()
	return ref
}

// goOn checks what the death left, and that the pull done again fetches what
// is missing and no more.
func (c *pullCrash) goOn(t *testing.T, ref string) {
	t.Helper()
	if !c.inPull {
		return
	}
	c.fsck()
	st, err := c.images.ImageStatus(c.ctx, &cri.ImageSpec{Image: ref}, false)
	switch {
	case err != nil:
		t.Fatal(err)
	case st.Image == nil && c.point == committed, st.Image != nil && slices.Contains(beforeCommit(), c.point):
		t.Errorf("it is there: %v", st.Image)
	case st.Image != nil: // the server died of cleaning up
		c.mustCLI("image", "verify", ref)
	}
	manifest, config := c.registry.documents(t, ref)
	c.registry.requests()
	want := c.missing(t, manifest, config)
	c.mustPull(t, ref)
	got := c.registry.requests()
	delete(got, manifest.Config.Digest) // it has to be known before anything is looked for
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("it asks for %v, missing is %v", got, want)
	}
	c.mustCLI("image", "verify", ref)
	c.mustCLI("image", "rm", ref)
	c.mustCLI("gc")
	c.fsck()
	if left, err := os.ReadDir(c.path("lib", "images", "staging")); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// missing gives what has to be asked for: by digests of blobs, the Range.
func (c *pullCrash) missing(t *testing.T, m v1.Manifest, config v1.Image) map[digest.Digest][]string {
	t.Helper()
	want := map[digest.Digest][]string{}
	for i, l := range m.Layers {
		_, err := os.Stat(c.path("lib", "images", "layers", image.FileName(config.RootFS.DiffIDs[i])))
		if err == nil {
			continue
		}
		from := ""
		part, err := os.Stat(c.path("lib", "images", "staging", "pull-"+image.FileName(m.Config.Digest), "partial", image.FileName(l.Digest)))
		if err == nil && part.Size() == l.Size {
			continue
		}
		if err == nil && part.Size() > 0 {
			from = fmt.Sprintf("bytes=%d-", part.Size())
		}
		want[l.Digest] = []string{from}
	}
	if strings.HasPrefix(c.point, partialGrown) && !slices.ContainsFunc(m.Layers, func(l v1.Descriptor) bool {
		return len(want[l.Digest]) == 1 && want[l.Digest][0] != ""
	}) {
		t.Errorf("nothing of a layer is there: %v", want)
	}
	return want
}

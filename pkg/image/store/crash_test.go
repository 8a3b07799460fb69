package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// rootEnv tells the test binary to be the process that dies, in that store.
const rootEnv = "STAGELET_TEST_STORE"

func TestMain(m *testing.M) {
	if root := os.Getenv(rootEnv); root != "" {
		os.Exit(liveAndDie(root))
	}
	os.Exit(m.Run())
}

// liveAndDie passes every crash point of the store.
func liveAndDie(root string) int {
	t := &testing.T{} // for the helpers; nothing is reported through it
	policy, err := trust.LoadPolicy(trust.Options{AcceptUnsigned: "a test"})
	if err != nil {
		return 2
	}
	s, err := Open(root, Options{Policy: policy})
	if err != nil {
		return 2
	}
	ctx := context.Background()
	f, err := s.Spool()
	if err != nil {
		return 2
	}
	_ = f.Close()
	shared := layerOf(t, "a", "shared")
	records, err := s.Admit(ctx, candidateOf(t, "one", "one", shared, layerOf(t, "b", "1")), candidateOf(t, "two", "two", shared, layerOf(t, "b", "2")))
	if err != nil {
		return 2
	}
	tag, err := image.ParseTag("another")
	if err != nil || s.Tag(ctx, "one", tag) != nil || s.Pin(ctx, "one", Pinned) != nil {
		return 2
	}
	if s.Lease(records[0].ID, "owner") != nil || s.Release("owner") != nil || s.Remove("one") != nil {
		return 2
	}
	if _, err := s.Pull(ctx, Intake{Candidate: crashRemote(t).Candidate}); err != nil {
		return 2
	}
	return 0
}

// crashRemote is an image with layers that imply directories, too.
func crashRemote(t testing.TB) *remote {
	return remoteOf(t, "pulled", "pulled", layerOf(t, "a", "below"), impliedLayer(t), bigLayer(t, 1))
}

// crashPoints reads the names of all crash points from the source, so that
// none is left out.
func crashPoints(t *testing.T) []string {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`crash\.Point\("([^"]+)"\)`).FindAllSubmatch(source, -1) {
			points = append(points, string(m[1]))
		}
	}
	if len(points) < 10 {
		t.Fatalf("only %v", points)
	}
	return points
}

func TestKilledAtEveryPoint(t *testing.T) {
	testutil.NeedRoot(t)
	for _, point := range crashPoints(t) {
		t.Run(point, func(t *testing.T) {
			testutil.CheckLeaks(t)
			root := filepath.Join(t.TempDir(), "images")
			testutil.DieAt(t, point, rootEnv+"="+root)
			s := pullStore(t, root)
			got := ids(t, s)
			if one, two := slices.ContainsFunc(got, func(s string) bool { return s[:3] == "one" }),
				slices.ContainsFunc(got, func(s string) bool { return s[:3] == "two" }); one && !two {
				t.Errorf("half of a commit: %v", got)
			}
			if err := s.Release("owner"); err != nil {
				t.Fatal(err)
			}
			if err := s.GC(context.Background()); err != nil {
				t.Fatal(err)
			}
			expectClean(t, s)
			layers := layerOf(t, "a", "shared")
			admit(t, s, candidateOf(t, "one", "one", layers, layerOf(t, "b", "1")), candidateOf(t, "two", "two", layers, layerOf(t, "b", "2")))
			r := crashRemote(t)
			pull(t, s, r)
			if point == "store.partial-grown" && r.given.Load() >= int64(len(r.layers[2])) {
				t.Errorf("%d bytes fetched, though some were there", r.given.Load())
			}
			for _, ref := range []string{"one", "two", "pulled"} {
				if _, err := s.Resolve(ref); err != nil {
					t.Error(err)
				}
				if err := s.Remove(ref); err != nil {
					t.Error(err)
				}
			}
			if n := layerCount(t, s); n != 0 {
				t.Errorf("%d layers left", n)
			}
			if _, err := s.Resolve("one"); !errors.Is(err, errs.NotFound) {
				t.Errorf("got %v", err)
			}
			expectClean(t, s)
		})
	}
}

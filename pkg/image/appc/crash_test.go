package appc_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/image/store"
)

// rootEnv tells the test binary to be the process that dies, in that store.
const rootEnv = "STAGELET_TEST_APPC_STORE"

func TestMain(m *testing.M) {
	if root := os.Getenv(rootEnv); root != "" {
		os.Exit(liveAndDie(root))
	}
	os.Exit(m.Run())
}

// liveAndDie imports what depends on something, and so passes every crash point
// on the way.
func liveAndDie(root string) int {
	t := &testing.T{} // for the helpers; nothing is reported through it
	s, err := store.Open(root, store.Options{})
	if err != nil {
		return 2
	}
	data, from := crashing(t)
	if _, err := importACI(s, data, appc.Options{Resolve: from.resolve}); err != nil {
		return 2
	}
	return 0
}

func crashing(t testing.TB) ([]byte, shelf) {
	m := depending("app", "base")
	m.PathWhitelist = []string{"/x", "/y"}
	return acibuild.New(t, m, file("x", "app"), file("z", "app")), shelf{"base": acibuild.New(t, named("base", ""), file("y", "base"))}
}

func TestKilledAtEveryPoint(t *testing.T) {
	testutil.NeedRoot(t)
	for _, point := range []string{
		"store.spool-made", "store.session-made", "store.layer-unpacked", "store.layer-held", "store.layer-published",
		"store.staged", "store.synced", "store.blob-published", "store.record-written", "store.committed",
	} {
		t.Run(point, func(t *testing.T) {
			testutil.CheckLeaks(t)
			root := filepath.Join(t.TempDir(), "images")
			testutil.DieAt(t, point, rootEnv+"="+root)
			s, err := store.Open(root, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			_, base := s.Resolve("base")
			_, app := s.Resolve("app")
			if committed := point == "store.committed"; committed != (base == nil) || committed != (app == nil) {
				t.Errorf("of the two there is: %v, %v", base, app)
			}
			if err := s.GC(context.Background()); err != nil {
				t.Fatal(err)
			}
			imagestore.ExpectClean(t, s)
			data, from := crashing(t)
			verify(t, s, mustImport(t, s, data, appc.Options{Resolve: from.resolve}))
			imagestore.ExpectClean(t, s)
		})
	}
}

func TestFullDisk(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.CheckLeaks(t)
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(i * i >> 8)
	}
	data := acibuild.New(t, depending("app", "base"), busybox.Regular("big", 0o644, big))
	from := shelf{"base": acibuild.New(t, named("base", ""), busybox.Regular("big2", 0o644, big))}
	for _, size := range []string{"2m", "5m", "8m", "11m"} { // the file, the dependency's, a layer, another
		t.Run(size, func(t *testing.T) {
			disk := t.TempDir()
			if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size="+size); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(disk, 0); err != nil {
					t.Error(err)
				}
			})
			s, err := store.Open(filepath.Join(disk, "images"), store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := importACI(s, data, appc.Options{Resolve: from.resolve}); !errors.Is(err, errs.Exhausted) || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("got %v", err)
			}
			imagestore.ExpectEmpty(t, s)
		})
	}
}

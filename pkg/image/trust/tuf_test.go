package trust

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil/tufrepo"
)

const rootTarget = "trusted_root.json"

// repositoryOf gives a TUF repository as the product sees it.
func repositoryOf(t *testing.T, r *tufrepo.Repo) RootRepository {
	return RootRepository{URL: (&url.URL{Scheme: "file", Path: r.Dir}).String(), Root: r.Root, Cache: filepath.Join(t.TempDir(), "tuf")}
}

func wantRoot(t *testing.T, from RootRepository, want string) {
	t.Helper()
	if got, err := FetchTrustedRoot(context.Background(), from); err != nil || string(got) != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}

// refusedRoot checks that a repository proves nothing.
func refusedRoot(t *testing.T, from RootRepository) {
	t.Helper()
	got, err := FetchTrustedRoot(context.Background(), from)
	if got != nil || !errors.Is(err, BadTrustRoot) || errs.KindOf(err) != errs.Corrupt {
		t.Errorf("%q, %v", got, err)
	}
	contains(t, err, from.URL)
}

func TestTrustedRootComesByTUF(t *testing.T) {
	r := tufrepo.New(t)
	r.Publish(rootTarget, []byte("one"))
	from := repositoryOf(t, r)
	wantRoot(t, from, "one")
	r.Publish(rootTarget, []byte("two"))
	wantRoot(t, from, "two")
	// The keys change; the old root leads to the new one.
	r.Rotate()
	r.Rotate()
	r.Publish(rootTarget, []byte("three"))
	wantRoot(t, from, "three")
	from.Cache = t.TempDir() // whoever begins with the old root today
	wantRoot(t, from, "three")
}

func TestTUFAttacks(t *testing.T) {
	target := func(r *tufrepo.Repo) string {
		files, err := filepath.Glob(filepath.Join(r.Dir, "targets", "*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		return files[0]
	}
	for name, attack := range map[string]func(r *tufrepo.Repo){
		"altered file": func(r *tufrepo.Repo) { overwrite(t, target(r), "oNe") },
		"longer file":  func(r *tufrepo.Repo) { overwrite(t, target(r), "one, and more") },
		"altered metadata": func(r *tufrepo.Repo) {
			path := filepath.Join(r.Dir, "1.targets.json")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, path, strings.Replace(string(data), `"length": 3`, `"length": 4`, 1))
		},
		"garbage": func(r *tufrepo.Repo) { overwrite(t, filepath.Join(r.Dir, "timestamp.json"), "garbage") },
		"expired": func(r *tufrepo.Repo) {
			r.Expires = time.Now().Add(-time.Minute)
			r.Publish(rootTarget, []byte("one"))
		},
		"another file": func(r *tufrepo.Repo) { r.Publish("other.json", []byte("one")) },
		"rotated by a stranger": func(r *tufrepo.Repo) {
			stranger := tufrepo.New(t)
			stranger.Rotate()
			data, err := os.ReadFile(filepath.Join(stranger.Dir, "2.root.json"))
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, filepath.Join(r.Dir, "2.root.json"), string(data))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := tufrepo.New(t)
			r.Publish(rootTarget, []byte("one"))
			attack(r)
			refusedRoot(t, repositoryOf(t, r))
		})
	}
	t.Run("stranger", func(t *testing.T) {
		r := tufrepo.New(t)
		r.Publish(rootTarget, []byte("one"))
		from := repositoryOf(t, r)
		from.Root = tufrepo.New(t).Root
		refusedRoot(t, from)
		from.Root = nil // sigstore's own
		refusedRoot(t, from)
		from.Root = []byte("garbage")
		refusedRoot(t, from)
	})
	t.Run("rollback", func(t *testing.T) {
		r := tufrepo.New(t)
		r.Publish(rootTarget, []byte("one"))
		r.Publish(rootTarget, []byte("two"))
		from := repositoryOf(t, r)
		wantRoot(t, from, "two")
		r.Rollback(0)
		r.Publish(rootTarget, []byte("one"))
		refusedRoot(t, from)
	})
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTUFRepositoriesThatCantBeHad(t *testing.T) {
	empty := RootRepository{URL: "file://" + t.TempDir(), Cache: t.TempDir()}
	if _, err := FetchTrustedRoot(context.Background(), empty); !errors.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
	r := tufrepo.New(t)
	r.Publish(rootTarget, []byte("one"))
	from := RootRepository{URL: "https://tuf.example.com", Root: r.Root, Cache: t.TempDir()}
	if _, err := FetchTrustedRoot(context.Background(), from); !errors.Is(err, errs.Unavailable) {
		t.Errorf("nothing fetches: %v", err)
	}
	for _, kind := range []errs.Kind{errs.Unavailable, errs.Canceled, errs.Exhausted} {
		from.Fetch = func(_ context.Context, url string, limit int64) ([]byte, error) {
			path, below := strings.CutPrefix(url, from.URL)
			if !below || strings.Contains(path, "targets/") {
				return nil, errs.New("fetch", kind, url, nil)
			}
			return Fetch(nil).get(context.Background(), "file://"+r.Dir+path, limit)
		}
		if _, err := FetchTrustedRoot(context.Background(), from); errs.KindOf(err) != kind || errors.Is(err, BadTrustRoot) {
			t.Errorf("%s became %v", kind, err)
		}
	}
}

// What comes is seen to be a trusted root before it replaces one.
func TestFetchedRootIsChecked(t *testing.T) {
	dir := t.TempDir()
	shipped, err := os.ReadFile("../../../trustedkeys/" + rootFile)
	if err != nil {
		t.Fatal(err)
	}
	r := tufrepo.New(t)
	for _, data := range [][]byte{shipped, []byte("{}")} {
		r.Publish(rootTarget, data)
		got, err := FetchTrustedRoot(context.Background(), repositoryOf(t, r))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := UpdateTrustedRoot(dir, got); (err == nil) != bytes.Equal(data, shipped) {
			t.Errorf("got %v", err)
		}
	}
	if now, err := os.ReadFile(filepath.Join(dir, rootFile)); err != nil || !bytes.Equal(now, shipped) {
		t.Errorf("it is another now, %v", err)
	}
}

package appc_test

import (
	"archive/tar"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

// model is a rendering as the specification tells it: one directory, into
// which image after image is extracted (ace.md, "Filesystem Setup"). It maps
// paths to what look says of them.
type model map[string]string

// extracted gives what is extracted of an image, after its dependencies: what
// its list leaves, and the directories that those have to be in.
func extracted(name string, all map[string]thing) (files []busybox.File) {
	x := all[name]
	for _, d := range x.manifest.Dependencies {
		files = append(files, extracted(d.ImageName, all)...)
	}
	for _, f := range x.files {
		files = append(append(files, above(f)...), f)
	}
	if len(x.manifest.PathWhitelist) == 0 {
		return files
	}
	var left []busybox.File
	for _, f := range files {
		if slices.Contains(x.manifest.PathWhitelist, "/"+strings.TrimSuffix(f.Header.Name, "/")) {
			left = append(append(left, above(f)...), f)
		}
	}
	return left
}

// above gives the directories that a file has to be in.
func above(f busybox.File) (dirs []busybox.File) {
	for p := path.Dir(strings.TrimSuffix(f.Header.Name, "/")); p != "."; p = path.Dir(p) {
		dirs = append(dirs, dir(p))
	}
	slices.Reverse(dirs)
	return dirs
}

// put overwrites what is there, and follows no link.
func (m model) put(p string, f busybox.File) {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if m[dir] != "/" {
			m[dir] = "/"
		}
	}
	switch f.Header.Typeflag {
	case tar.TypeDir:
		m[p] = "/"
		return
	case tar.TypeSymlink:
		m[p] = "->" + f.Header.Linkname
	default:
		m[p] = "=" + string(f.Body)
	}
	maps.DeleteFunc(m, func(other, _ string) bool { return strings.HasPrefix(other, p+"/") })
}

// lines are as rendering gives them, without directories that are empty and not
// listed: the way to what another image hides may be left.
func (m model) lines(list []string) []string {
	for again := true; again; {
		again = false
		for p, what := range m {
			inside := func(other string) bool { return strings.HasPrefix(other, p+"/") }
			if what == "/" && len(list) > 0 && !slices.Contains(list, "/"+p) && !slices.ContainsFunc(slices.Collect(maps.Keys(m)), inside) {
				delete(m, p)
				again = true
			}
		}
	}
	var all []string
	for p, what := range m {
		all = append(all, p+what)
	}
	return slices.Sorted(slices.Values(all))
}

func parsed(lines []string) model {
	m := model{}
	for _, l := range lines {
		i := strings.IndexAny(l, "=-/")
		for l[i] == '/' && i+1 < len(l) { // inside the path
			i += 1 + strings.IndexAny(l[i+1:], "=-/")
		}
		m[l[:i]] = l[i:]
	}
	return m
}

// Images that are put together at random come out as by the specification.
func TestRenderAsTheModel(t *testing.T) {
	for seed := range uint64(25) {
		random := rand.New(rand.NewPCG(seed, 1))
		all := map[string]thing{}
		names := []string{"a", "b", "c", "d"}
		for i, name := range names {
			x := a(named(name, ""), someFiles(random, name)...)
			for _, below := range names[i+1:] {
				if random.IntN(2) == 0 {
					x.manifest.Dependencies = append(x.manifest.Dependencies, appc.Dependency{ImageName: below})
				}
			}
			if random.IntN(2) == 0 {
				for range 1 + random.IntN(6) {
					x.manifest.PathWhitelist = append(x.manifest.PathWhitelist, "/"+somePath(random))
				}
			}
			all[name] = x
		}
		s, others := newStore(t), shelf{}
		for name, x := range all {
			others[name] = acibuild.New(t, x.manifest, x.files...)
		}
		r := mustImport(t, s, others["a"], appc.Options{Resolve: others.resolve})
		want := model{}
		for _, f := range extracted("a", all) {
			want.put(strings.TrimSuffix(f.Header.Name, "/"), f)
		}
		list := all["a"].manifest.PathWhitelist
		if len(list) == 0 {
			for _, x := range all {
				list = append(list, x.manifest.PathWhitelist...)
			}
		}
		got := parsed(rendering(t, s, r)).lines(list)
		if want := want.lines(list); !slices.Equal(got, want) {
			t.Errorf("seed %d: it is\n%q, want\n%q\n%+v", seed, got, want, all)
		}
		imagestore.ExpectClean(t, s)
	}
}

func somePath(random *rand.Rand) string {
	var elements []string
	for range 1 + random.IntN(3) {
		elements = append(elements, string(rune('x'+random.IntN(3))))
	}
	return strings.Join(elements, "/")
}

// someFiles gives a tree of files, links and directories; a directory without
// an entry of its own may be among them.
func someFiles(random *rand.Rand, of string) (files []busybox.File) {
	kinds := map[string]byte{}
	for range 8 {
		p := somePath(random)
		usable := kinds[p] == 0
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			usable = usable && (kinds[dir] == 0 || kinds[dir] == tar.TypeDir)
		}
		if !usable {
			continue
		}
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			kinds[dir] = tar.TypeDir
		}
		switch random.IntN(4) {
		case 0:
			kinds[p], files = tar.TypeDir, append(files, dir(p))
		case 1:
			kinds[p], files = tar.TypeSymlink, append(files, link(p, "/"+somePath(random)))
		default:
			kinds[p], files = tar.TypeReg, append(files, file(p, fmt.Sprintf("%s of %s", p, of)))
		}
	}
	return files
}

package layer

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/image"
)

// TestImpliedDirectories stacks layers of which the upper ones say nothing
// about directories that they put something into.
func TestImpliedDirectories(t *testing.T) {
	testutil.NeedRoot(t)
	dir := func(name string, mode int64, uid int) entry {
		return entry{name: name, kind: tar.TypeDir, mode: mode, uid: uid}
	}
	base := []entry{dir("./", 0o755, 0), dir("etc", 0o750, 7), dir("etc/secret", 0o700, 8), dir("var", 0o755, 0), dir("var/tmp", 0o1777, 0)}
	for name, c := range map[string]struct {
		layers [][]entry
		want   map[string]uint32 // mode, of what is there
		none   bool              // nothing has to be repaired
	}{
		"one layer":        {layers: [][]entry{base}, none: true},
		"nothing implied":  {layers: [][]entry{base, {dir("./", 0o755, 0), dir("etc", 0o711, 7), {name: "etc/f"}}}, want: map[string]uint32{"etc": 0o711}, none: true},
		"two levels":       {layers: [][]entry{base, {{name: "etc/secret/f"}}}, want: map[string]uint32{"etc": 0o750, "etc/secret": 0o700}},
		"sticky":           {layers: [][]entry{base, {{name: "var/tmp/f"}}}, want: map[string]uint32{"var/tmp": 0o1777}},
		"through a layer":  {layers: [][]entry{base, {{name: "etc/a"}}, {{name: "etc/b"}}}, want: map[string]uint32{"etc": 0o750}},
		"said in between":  {layers: [][]entry{base, {dir("etc", 0o701, 1)}, {{name: "etc/b"}}}, want: map[string]uint32{"etc": 0o701}},
		"hidden":           {layers: [][]entry{base, {{name: "etc/secret/f"}}, {{name: ".wh.etc"}}}, want: map[string]uint32{"var/tmp": 0o1777}},
		"new since":        {layers: [][]entry{base, {{name: ".wh.etc"}}, {dir("./", 0o755, 0), {name: "etc/f"}}}, want: map[string]uint32{"etc": 0o755}},
		"nobody says":      {layers: [][]entry{{dir("./", 0o755, 0), {name: "opt/a"}}, {dir("./", 0o755, 0), {name: "opt/b"}}}, want: map[string]uint32{"opt": 0o755}, none: true},
		"times alone":      {layers: [][]entry{{dir("./", 0o755, 0), dir("opt", 0o755, 0)}, {{name: "opt/b"}}}, want: map[string]uint32{"opt": 0o755}, none: true},
		"the root":         {layers: [][]entry{{dir("./", 0o700, 3)}, {{name: "f"}}}, want: map[string]uint32{".": 0o700}},
		"with attributes":  {layers: [][]entry{{{name: "d", kind: tar.TypeDir, xattrs: map[string]string{"user.a": "b"}}}, {{name: "d/f"}}}, want: map[string]uint32{"d": 0o755}},
		"a file by now":    {layers: [][]entry{base, {{name: "etc/f"}}, {{name: "etc"}}}, want: map[string]uint32{"etc": 0o644}},
		"an opaque parent": {layers: [][]entry{base, {dir("etc", 0o705, 0), {name: "etc/.wh..wh..opq"}, {name: "etc/secret/f"}}}, want: map[string]uint32{"etc": 0o705, "etc/secret": 0o755}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			var ids []image.Digest
			put := func(data []byte) {
				d := digest.FromBytes(data)
				staged := filepath.Join(t.TempDir(), "l")
				if _, err := Unpack(context.Background(), staged, closer(data), Want{DiffID: d}); err != nil {
					t.Fatal(err)
				}
				if err := s.Publish(d, staged); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, d)
			}
			for _, l := range c.layers {
				put(tarOf(t, l...))
			}
			repair, err := s.Implied(ids)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := s.Implied(ids); err != nil || !slices.Equal(again, repair) {
				t.Errorf("another the second time: %v", err)
			}
			if c.none && repair != nil {
				t.Errorf("%q is not needed", repair)
			}
			if repair != nil {
				put(repair)
			}
			paths, err := s.Paths(ids)
			if err != nil {
				t.Fatal(err)
			}
			var trees []string
			for _, p := range paths {
				trees = append(trees, p.Path)
			}
			if len(trees) == 1 {
				return
			}
			at := mount(t, trees...)
			for name, want := range c.want {
				fi, err := os.Lstat(filepath.Join(at, name))
				if err != nil {
					t.Error(err)
					continue
				}
				if st := fi.Sys().(*syscall.Stat_t); st.Mode&0o7777 != want {
					t.Errorf("%s has mode %o, want %o", name, st.Mode&0o7777, want)
				}
			}
			if name == "two levels" {
				fi, err := os.Lstat(filepath.Join(at, "etc/secret"))
				if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 8 || !fi.ModTime().Equal(entryTime) {
					t.Errorf("%+v, %v", fi, err)
				}
			}
			if name == "with attributes" {
				buf := make([]byte, 8)
				if n, err := syscall.Getxattr(filepath.Join(trees[len(trees)-1], "d"), "user.a", buf); err != nil || string(buf[:n]) != "b" {
					t.Errorf("%q, %v", buf[:max(n, 0)], err)
				}
			}
		})
	}
}

package hostile

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil/acibuild"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

// ACI is an App Container Image that is good as long as nobody changes it: its
// manifest, its rootfs and the entries below that.
func ACI(t testing.TB) []busybox.File {
	return append([]busybox.File{acibuild.Manifest(t, appc.ImageManifest{Name: "one", Labels: acibuild.Label("version", "1")}), busybox.Directory("rootfs", 0o755)},
		acibuild.Below("rootfs", busybox.Directory("dir", 0o755), busybox.Regular("dir/top", 0o644, []byte("one:1")))...)
}

// ACIs gives App Container Images to be refused.
func ACIs() []Archive { return slices.Concat(aciOuter(), aciFiles(), aciManifests()) }

// aci attacks with a changed ACI.
func aci(change func(t testing.TB, a []busybox.File) []busybox.File) func(testing.TB) []byte {
	return func(t testing.TB) []byte {
		a := change(t, ACI(t))
		if len(a) == 0 {
			return nil
		}
		return acibuild.Tar(t, a[0], a[1:]...)
	}
}

// aciWith attacks with one more entry, as it is.
func aciWith(more ...tar.Header) func(testing.TB) []byte {
	return aci(func(_ testing.TB, a []busybox.File) []busybox.File {
		for _, h := range more {
			a = append(a, busybox.File{Header: h, Body: make([]byte, h.Size)})
		}
		return a
	})
}

// aciPacked attacks with what becomes of the bytes of a good one.
func aciPacked(change func(t testing.TB, data []byte) []byte) func(testing.TB) []byte {
	good := aci(func(_ testing.TB, a []busybox.File) []busybox.File { return a })
	return func(t testing.TB) []byte { return change(t, good(t)) }
}

// manifested attacks with another manifest.
func manifested(change func(m *appc.ImageManifest)) func(testing.TB) []byte {
	return aci(func(t testing.TB, a []busybox.File) []busybox.File {
		m := appc.ImageManifest{Name: "one"}
		change(&m)
		a[0] = acibuild.Manifest(t, m)
		return a
	})
}

func aciOuter() []Archive {
	return []Archive{
		{Name: "a third entry", Data: aciWith(tar.Header{Name: "other"}), Want: image.BadEntry, Says: " other:"},
		{Name: "rootfs2", Data: aciWith(tar.Header{Name: "rootfs2/x"}), Want: image.BadEntry, Says: " rootfs2/x:"},
		{Name: "climbs", Data: aciWith(tar.Header{Name: "../x"}), Want: image.PathEscape, Says: "../x"},
		{Name: "climbs out of rootfs", Data: aciWith(tar.Header{Name: "rootfs/../../x"}), Want: image.PathEscape, Says: "rootfs/../../x"},
		{Name: "climbs within", Data: aciWith(tar.Header{Name: "rootfs/a/../x"}), Want: image.PathEscape, Says: "rootfs/a/../x"},
		{Name: "absolute", Data: aciWith(tar.Header{Name: "/rootfs/x"}), Want: image.PathEscape, Says: "/rootfs/x"},
		{Name: "no manifest", Data: aci(func(_ testing.TB, a []busybox.File) []busybox.File { return a[1:] }), Want: image.Incomplete, Says: "no manifest"},
		{Name: "no rootfs", Data: aci(func(_ testing.TB, a []busybox.File) []busybox.File { return a[:1] }), Want: image.Incomplete, Says: "no rootfs"},
		{Name: "two manifests", Data: aci(func(_ testing.TB, a []busybox.File) []busybox.File { return append(a, a[0]) }), Want: image.Unrepeatable, Says: "manifest"},
		{Name: "rootfs is a link", Data: aci(func(_ testing.TB, a []busybox.File) []busybox.File {
			return append(a[:1], busybox.Symlink("rootfs", "/"))
		}), Want: image.BadEntry, Says: "rootfs"},
		{Name: "manifest is a link", Data: aci(func(_ testing.TB, a []busybox.File) []busybox.File {
			a[0] = busybox.Symlink("manifest", "/etc/passwd")
			return a
		}), Want: image.BadEntry, Says: "manifest"},
		{Name: "a large manifest", Data: aci(func(_ testing.TB, a []busybox.File) []busybox.File {
			a[0] = busybox.Regular("manifest", 0o644, make([]byte, image.MaxDocument+1))
			return a
		}), Want: image.TooLarge, Says: "manifest"},
		{Name: "a file twice", Data: aciWith(tar.Header{Name: "./rootfs/dir//top"}), Want: image.Unrepeatable, Says: "rootfs/dir/top"},
		{Name: "truncated", Data: aciPacked(func(_ testing.TB, data []byte) []byte { return data[:len(data)-1700] }), Want: image.Truncated},
		{Name: "garbage at the end", Data: aciPacked(func(_ testing.TB, data []byte) []byte { return append(data, 'x') }), Want: image.Trailing},
		{Name: "truncated gzip", Data: aciPacked(func(t testing.TB, data []byte) []byte {
			z := Pack(t, image.Gzip, data)
			return z[:len(z)-5]
		}), Want: image.Truncated},
		{Name: "gzip bomb", Data: aciPacked(func(t testing.TB, data []byte) []byte {
			return Pack(t, image.Gzip, append(data, make([]byte, 64<<20)...))
		}), Want: image.TooLarge},
	}
}

func aciFiles() []Archive {
	device := tar.Header{Name: "rootfs/dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}
	link := func(to string) tar.Header {
		return tar.Header{Name: "rootfs/link", Typeflag: tar.TypeLink, Linkname: to}
	}
	xattr := func(name string) tar.Header {
		return tar.Header{Name: "rootfs/file", PAXRecords: map[string]string{"SCHILY.xattr." + name: "y"}}
	}
	many := tar.Header{Name: "rootfs/file", PAXRecords: map[string]string{}}
	for i := range image.MaxEntryXattrs + 1 {
		many.PAXRecords[fmt.Sprint("SCHILY.xattr.user.x", i)] = "y"
	}
	return []Archive{
		{Name: "hard link to outside", Data: aciWith(link("../../etc/passwd")), Want: image.PathEscape, Says: "rootfs/link:"},
		{Name: "hard link to the host", Data: aciWith(link("/etc/passwd")), Want: image.PathEscape, Says: "rootfs/link:"},
		{Name: "hard link to the manifest", Data: aciWith(link("manifest")), Want: image.BadLink, Says: "rootfs/link:"},
		{Name: "hard link to nothing", Data: aciWith(link("rootfs/nothing")), Want: image.BadLink, Says: "link:"},
		{Name: "hard link to a device", Data: aciWith(device, link("rootfs/dev")), Want: image.BadLink, Says: "link:"},
		{Name: "device as a whiteout", Data: aciWith(tar.Header{Name: "rootfs/dev", Typeflag: tar.TypeChar}), Want: image.BadWhiteout, Says: "dev:"},
		{Name: "a file in a file", Data: aciWith(tar.Header{Name: "rootfs/dir/top/x"}), Want: image.BadEntry, Says: "top"},
		{Name: "trusted.overlay", Data: aciWith(xattr("trusted.overlay.opaque")), Want: image.BadXattr, Says: "file:"},
		{Name: "user.overlay", Data: aciWith(xattr("user.overlay.redirect")), Want: image.BadXattr, Says: "file:"},
		{Name: "too many attributes", Data: aciWith(many), Want: image.TooLarge, Says: "file:"},
		{Name: "a whiteout", Data: aciWith(tar.Header{Name: "rootfs/dir/.wh.top"}), Want: image.BadWhiteout, Says: "rootfs/dir/.wh.top:"},
		{Name: "an opaque directory", Data: aciWith(tar.Header{Name: "rootfs/.wh..wh..opq"}), Want: image.BadWhiteout, Says: "opq:"},
		{Name: "a file in a whiteout", Data: aciWith(tar.Header{Name: "rootfs/.wh.x/y"}), Want: image.BadWhiteout, Says: ".wh.x/y:"},
		{Name: "a long name", Data: aciWith(tar.Header{Name: "rootfs/" + strings.Repeat("x", image.MaxName+1)}), Want: image.TooLarge, Says: "xxx"},
		{Name: "a long path", Data: aciWith(tar.Header{Name: "rootfs/" + strings.Repeat("x/", image.MaxPath/2)}), Want: image.TooLarge, Says: "x/x"},
		{Name: "links in a circle", Data: aciWith(
			tar.Header{Name: "rootfs/l", Typeflag: tar.TypeSymlink, Linkname: "m"}, tar.Header{Name: "rootfs/m", Typeflag: tar.TypeSymlink, Linkname: "l"},
			tar.Header{Name: "rootfs/l/x"}), Want: image.BadLink, Says: "circle"},
		{Name: "sparse file", Data: aciPacked(func(_ testing.TB, data []byte) []byte {
			sparse := bytes.ReplaceAll(sparseEntry(), []byte("23 GNU.sparse.name=sparse"), []byte("23 GNU.sparse.name=rootfs"))
			return append(sparse, data...)
		}), Want: image.BadEntry, Says: "sparse"},
	}
}

func aciManifests() []Archive {
	of := func(labels ...string) func(*appc.ImageManifest) {
		return func(m *appc.ImageManifest) { m.Labels = acibuild.Label(labels...) }
	}
	return []Archive{
		{Name: "no JSON", Data: aci(func(_ testing.TB, a []busybox.File) []busybox.File {
			a[0] = busybox.Regular("manifest", 0o644, []byte("{"))
			return a
		}), Want: image.Malformed, Says: "image manifest"},
		{Name: "no name", Data: manifested(func(m *appc.ImageManifest) { m.Name = "" }), Want: image.BadReference, Says: "name"},
		{Name: "a name that is none here", Data: manifested(func(m *appc.ImageManifest) { m.Name = "example.com/user~app" }), Want: image.Nameless, Says: "--name"},
		{Name: "a version that is no tag", Data: manifested(of("version", "1 2")), Want: image.Nameless, Says: "--name"},
		{Name: "another system", Data: manifested(of("os", "freebsd", "arch", "amd64")), Want: image.NoPlatform, Says: "freebsd/amd64"},
		{Name: "another machine", Data: manifested(of("os", "linux", "arch", "ppc64le")), Want: image.NoPlatform, Says: "linux/ppc64le"},
		{Name: "no date", Data: manifested(func(m *appc.ImageManifest) { m.Annotations = acibuild.Label("created", "yesterday") }), Want: image.Malformed, Says: "created"},
		{Name: "the owner of nothing", Data: manifested(func(m *appc.ImageManifest) { m.App = &appc.App{User: "/nobody", Group: "0"} }), Want: image.Incomplete, Says: "/nobody"},
		{Name: "too many ports", Data: manifested(func(m *appc.ImageManifest) {
			m.App = &appc.App{User: "0", Group: "0", Ports: []appc.Port{{Name: "a", Protocol: "tcp", Port: 1, Count: 65535}, {Name: "b", Protocol: "udp", Port: 1}}}
		}), Want: image.TooLarge, Says: "ports"},
	}
}

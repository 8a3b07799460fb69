package hostile

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/pkg/image"
)

// Attack is an image to be refused, in whatever form it comes.
type Attack struct {
	Name   string
	Layer  func(t testing.TB) []byte // instead of the good one
	Change func(x *Image)
	Want   image.Fault
	Says   string // what stands in the error
	// NeedsManifest says that "docker save" has no such thing.
	NeedsManifest bool
}

// Image makes it.
func (a Attack) Image(t testing.TB) *Image {
	x := New(t)
	if a.Layer != nil {
		x = New(t, a.Layer(t))
	}
	if a.Change != nil {
		a.Change(x)
	}
	return x
}

// Images gives all of them.
func Images() []Attack { return slices.Concat(layers(), documents()) }

func entries(all ...*tar.Header) func(testing.TB) []byte {
	return func(t testing.TB) []byte { return Tar(t, all...) }
}

func layers() []Attack {
	device := &tar.Header{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}
	link := func(to string) *tar.Header { return &tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: to} }
	xattr := func(name string) *tar.Header {
		return &tar.Header{Name: "file", PAXRecords: map[string]string{"SCHILY.xattr." + name: "y"}}
	}
	many := tar.Header{Name: "file", PAXRecords: map[string]string{}}
	for i := range image.MaxEntryXattrs + 1 {
		many.PAXRecords[fmt.Sprint("SCHILY.xattr.user.x", i)] = "y"
	}
	return []Attack{
		{Name: "hard link to outside", Layer: entries(link("../../etc/passwd")), Want: image.PathEscape, Says: " link:"},
		{Name: "hard link to nothing", Layer: entries(link("nothing")), Want: image.BadLink, Says: " link:"},
		{Name: "hard link to a device", Layer: entries(device, link("dev")), Want: image.BadLink, Says: " link:"},
		{Name: "device as a whiteout", Layer: entries(&tar.Header{Name: "dev", Typeflag: tar.TypeChar}), Want: image.BadWhiteout, Says: " dev:"},
		{Name: "trusted.overlay", Layer: entries(xattr("trusted.overlay.opaque")), Want: image.BadXattr, Says: " file:"},
		{Name: "user.overlay", Layer: entries(xattr("user.overlay.redirect")), Want: image.BadXattr, Says: " file:"},
		{Name: "too many attributes", Layer: entries(&many), Want: image.TooLarge, Says: " file:"},
		{Name: "a long name", Layer: entries(&tar.Header{Name: strings.Repeat("x", image.MaxName+1)}), Want: image.TooLarge, Says: "xxx"},
		{Name: "a long path", Layer: entries(&tar.Header{Name: strings.Repeat("x/", image.MaxPath/2+1)}), Want: image.TooLarge, Says: "x/x"},
		{Name: "sparse file", Layer: func(t testing.TB) []byte { return append(sparseEntry(), Tar(t)...) }, Want: image.TooLarge, Says: "sparse"},
		{Name: "empty whiteout", Layer: entries(&tar.Header{Name: ".wh."}), Want: image.BadWhiteout, Says: " .wh.:"},
		{Name: "whiteout of .", Layer: entries(&tar.Header{Name: ".wh.."}), Want: image.BadWhiteout, Says: " .wh..:"},
		{Name: "unknown whiteout", Layer: entries(&tar.Header{Name: ".wh..wh.plnk"}), Want: image.BadWhiteout, Says: " .wh..wh.plnk:"},
		{Name: "bomb", Layer: entries(&tar.Header{Name: "file", Size: 64 << 20}), Want: image.TooLarge, Says: " file:", NeedsManifest: true},
		{Name: "truncated tar", Layer: func(t testing.TB) []byte { return Tar(t, &tar.Header{Name: "file", Size: 5000})[:2000] }, Want: image.Truncated, Says: " file:"},
		{Name: "trailing garbage", Layer: func(t testing.TB) []byte { return append(Tar(t, device), "garbage"...) }, Want: image.Trailing},
		{Name: "no tar", Layer: func(testing.TB) []byte { return bytes.Repeat([]byte("no tar\n"), 200) }, Want: image.Malformed},
	}
}

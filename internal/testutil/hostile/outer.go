package hostile

import (
	"archive/tar"
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/stagelet/stagelet/pkg/image"
)

func outerAttacks() []Archive {
	return []Archive{
		{Name: "climbs", Data: extra(Item{Name: "../x"}), Want: image.PathEscape, Says: "../x"},
		{Name: "climbs inside", Data: extra(Item{Name: "a/../../x"}), Want: image.PathEscape, Says: "a/../../x"},
		{Name: "absolute", Data: extra(Item{Name: "/etc/x"}), Want: image.PathEscape, Says: "/etc/x"},
		{Name: "hard link", Data: extra(Item{Name: "x", Kind: tar.TypeLink, Link: "manifest.json"}), Want: image.BadEntry, Says: " x:"},
		{Name: "device", Data: extra(Item{Name: "x", Kind: tar.TypeChar}), Want: image.BadEntry, Says: " x:"},
		{Name: "fifo", Data: extra(Item{Name: "x", Kind: tar.TypeFifo}), Want: image.BadEntry, Says: " x:"},
		{Name: "sparse file", Data: func(t testing.TB) []byte {
			return append(sparseEntry(), DockerSave(t, "one").Pack(t)...)
		}, Want: image.BadEntry, Says: " sparse:"},
		{Name: "20 001 entries", Data: docker(func(_ testing.TB, a Items) Items {
			for i := range image.MaxArchiveEntries {
				a = append(a, Item{Name: fmt.Sprint("file", i)})
			}
			return a
		}), Want: image.TooLarge, Says: "entries"},
		{Name: "entry twice", Data: extra(Item{Name: "./manifest.json", Data: []byte("[]")}), Want: image.Unrepeatable, Says: "manifest.json"},
		{Name: "link over a file", Data: extra(Item{Name: "manifest.json", Link: "x"}), Want: image.Unrepeatable, Says: "manifest.json"},
		{Name: "layer link outside", Data: relink("../../etc/passwd"), Want: image.PathEscape, Says: "layer.tar"},
		{Name: "layer link absolute", Data: relink("/etc/passwd"), Want: image.PathEscape, Says: "layer.tar"},
		{Name: "layer link dangling", Data: relink("../none/layer.tar"), Want: image.BadLink, Says: "layer.tar"},
		{Name: "layer link chained", Data: relink("../other", Item{Name: "other", Link: "manifest.json"}), Want: image.BadLink, Says: "layer.tar"},
		{Name: "layer link to a directory", Data: relink("../dir", Item{Name: "dir", Kind: tar.TypeDir}), Want: image.BadLink, Says: "layer.tar"},
		{Name: "empty", Data: func(testing.TB) []byte { return nil }, Want: image.Incomplete},
		{Name: "no archive", Data: func(testing.TB) []byte { return bytes.Repeat([]byte("hello\n"), 500) }, Want: image.Malformed},
		{Name: "no xz", Data: func(testing.TB) []byte { return []byte("\xfd7zXZ\x00 and so on") }, Want: image.Malformed},
		{Name: "truncated", Data: func(t testing.TB) []byte { return DockerSave(t, "one").Pack(t)[:3000] }, Want: image.Truncated},
		{Name: "truncated gzip", Data: func(t testing.TB) []byte {
			z := Pack(t, image.Gzip, DockerSave(t, "one").Pack(t))
			return z[:len(z)-5]
		}, Want: image.Truncated},
		{Name: "garbage at the end", Data: func(t testing.TB) []byte { return append(DockerSave(t, "one").Pack(t), 'x') }, Want: image.Trailing},
		{Name: "gzip bomb", Data: func(t testing.TB) []byte {
			return Pack(t, image.Gzip, append(DockerSave(t, "one").Pack(t), make([]byte, 64<<20)...))
		}, Want: image.TooLarge},
	}
}

// sparseEntry is a file of 1 TiB that is all hole, as PAX says it; package tar
// doesn't write such a thing.
func sparseEntry() []byte {
	records := ""
	for _, r := range []string{"major=1", "minor=0", "realsize=1099511627776", "name=sparse"} {
		r = " GNU.sparse." + r + "\n"
		records += fmt.Sprint(len(r)+2) + r
	}
	return slices.Concat(
		header("pax", tar.TypeXHeader, len(records)), padded(records),
		header("sparse", tar.TypeReg, 512), padded("0\n"))
}

func header(name string, kind byte, size int) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x0000000000000\x00        %c", size, kind))
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func padded(text string) []byte { return append([]byte(text), make([]byte, 512-len(text))...) }

package layer

import (
	"path"
	"strings"

	"github.com/stagelet/stagelet/pkg/image"
)

// The names of whiteouts in a layer's tar (OCI image-spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

func isWhiteoutName(base string) bool { return strings.HasPrefix(base, whiteoutPrefix) }

// cleanName gives the path of an entry below the root, "" for the root. What
// climbs out of the root by "..", or is absolute, stays inside, as in a
// chroot(2).
func cleanName(name string) (string, error) {
	if len(name) > image.MaxPath {
		return "", image.Refuse(op, image.TooLarge, name, "a name of %d bytes, more than %d", len(name), image.MaxPath)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", image.Refuse(op, image.BadEntry, name, "a zero byte in the name")
	}
	clean := path.Clean("/" + name)[1:]
	if clean == "" {
		return "", nil
	}
	elements := strings.Split(clean, "/")
	for i, e := range elements {
		if len(e) > image.MaxName {
			return "", image.Refuse(op, image.TooLarge, name, "an element of %d bytes, more than %d", len(e), image.MaxName)
		}
		if i < len(elements)-1 && isWhiteoutName(e) {
			return "", image.Refuse(op, image.BadWhiteout, name, "a whiteout is no directory")
		}
	}
	return clean, nil
}

// linkTarget gives the path that a hard link leads to.
func linkTarget(name, target string) (string, error) {
	if up := path.Clean(target); up == ".." || strings.HasPrefix(up, "../") {
		return "", image.Refuse(op, image.PathEscape, name, "a hard link to %s", image.Printable(target))
	}
	clean, err := cleanName(target)
	if err != nil {
		return "", err
	}
	if clean == "" || isWhiteoutName(path.Base(clean)) {
		return "", image.Refuse(op, image.BadLink, name, "a hard link to %s", image.Printable(target))
	}
	return clean, nil
}

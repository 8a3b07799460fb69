package appc

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/stagelet/stagelet/pkg/image"
)

// Types of types.md.
var (
	identifier = regexp.MustCompile(`^[a-z0-9]+([-._~/][a-z0-9]+)*$`)
	acName     = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	variable   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	version    = regexp.MustCompile(`^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)` +
		`(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)
)

// maxString bounds names and single values, in bytes.
const maxString = image.MaxReference

// CheckIdentifier checks an AC identifier: "example.com/app".
func CheckIdentifier(s string) error {
	if len(s) > maxString || !identifier.MatchString(s) {
		return fmt.Errorf("%w: %s is no AC identifier: lower-case letters and digits, with one of -._~/ between them",
			image.BadReference, image.Printable(s))
	}
	return nil
}

// CheckName checks an AC name: "main-app".
func CheckName(s string) error {
	if len(s) > maxString || !acName.MatchString(s) {
		return fmt.Errorf("%w: %s is no AC name: lower-case letters and digits, with single hyphens between them",
			image.BadReference, image.Printable(s))
	}
	return nil
}

// idPrefix starts the id of an image: the digest of the uncompressed ACI.
const idPrefix = "sha512-"

// ParseID reads an image id, "sha512-" and 128 lower-case hex digits.
func ParseID(s string) (image.Digest, error) {
	if !strings.HasPrefix(s, idPrefix) {
		return "", image.Refuse("parse image id", image.BadDigest, s, "must start with %s", idPrefix)
	}
	return image.ParseFileName(s)
}

// FormatID is the inverse of ParseID.
func FormatID(d image.Digest) string { return image.FileName(d) }

// checkIDPrefix checks the beginning of an image id.
func checkIDPrefix(s string) error {
	digits, ok := strings.CutPrefix(s, idPrefix)
	if !ok || digits == "" || len(digits) > 128 || strings.Trim(digits, "0123456789abcdef") != "" {
		return fmt.Errorf("%w: %s must be %s and at most 128 lower-case hex digits", image.BadDigest, image.Printable(s), idPrefix)
	}
	return nil
}

// checkVersion checks that a document is written for a version that is
// understood: the same major one ("AC Version Type").
func checkVersion(s string) error {
	if len(s) > maxString || !version.MatchString(s) {
		return fmt.Errorf("acVersion: %w: %s is no semantic version", image.Malformed, image.Printable(s))
	}
	if !strings.HasPrefix(s, "0.") {
		return fmt.Errorf("acVersion: %w: it is %s, this program knows %s", image.WrongFormat, image.Printable(s), SpecVersion)
	}
	return nil
}

// checkPath checks an absolute path that doesn't climb.
func checkPath(s string) error {
	switch {
	case !path.IsAbs(s):
		return fmt.Errorf("%w: %s is not an absolute path", image.Malformed, image.Printable(s))
	case len(s) > image.MaxPath:
		return fmt.Errorf("%w: the path %s has more than %d bytes", image.TooLarge, image.Printable(s), image.MaxPath)
	}
	for element := range strings.SplitSeq(s, "/") {
		if element == ".." {
			return fmt.Errorf("%w: %s", image.PathEscape, image.Printable(s))
		}
	}
	return checkText(s)
}

var errNUL = errors.New("a NUL byte in a text")

// checkText checks what the kernel takes as a string.
func checkText(s string) error {
	if strings.ContainsRune(s, 0) {
		return fmt.Errorf("%w: %w", image.Malformed, errNUL)
	}
	return nil
}

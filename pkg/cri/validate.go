package cri

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

// Checks of single values. Each takes the name of the field as api.proto has
// it, and gives an errs.Invalid that says what is wrong and shows the value,
// except where it may be secret.

// maxName bounds the names in metadata, in bytes (a DNS subdomain, RFC 1123).
const maxName = 253

var nameForm = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// checkName admits what Kubernetes can call things, and test tools do. Names
// reach CNI plugins, which split their arguments at ";" and "=".
func checkName(field, name string) error {
	switch {
	case name == "":
		return invalid(field, "is empty")
	case len(name) > maxName:
		return invalid(field, "is %d bytes long, more than %d", len(name), maxName)
	case !nameForm.MatchString(name):
		return invalid(field, "%q has other characters than letters, digits, '.', '_' and '-'", name)
	}
	return nil
}

func checkText(field, text string) error {
	if i := strings.IndexFunc(text, unicode.IsControl); i >= 0 {
		return invalid(field, "has a control character at byte %d", i)
	}
	return nil
}

// checkWord is for values that stand between blanks in a file.
func checkWord(field, word string) error {
	if word == "" || strings.ContainsFunc(word, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return invalid(field, "%q is empty or has blanks", word)
	}
	return nil
}

func checkAbsolute(field, path string) error {
	switch {
	case path == "":
		return invalid(field, "is empty")
	case !filepath.IsAbs(path):
		return invalid(field, "%q is no absolute path", path)
	case strings.ContainsRune(path, 0):
		return invalid(field, "%q has a NUL byte", path)
	}
	return nil
}

func checkAbsolutes(field string, paths []string) error {
	for i, path := range paths {
		if err := checkAbsolute(at(field, i), path); err != nil {
			return err
		}
	}
	return nil
}

// checkCgroupParent admits paths and names of systemd slices; which of them
// this node serves is the engine's to say.
func checkCgroupParent(field, path string) error {
	if strings.HasSuffix(path, ".slice") && !strings.Contains(path, "/") {
		return checkText(field, path)
	}
	if err := checkAbsolute(field, path); err != nil {
		return err
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return invalid(field, "%q has a \"..\"", path)
		}
	}
	return checkText(field, path)
}

// checkInside admits a path that stays below the directory it is relative to.
func checkInside(field, path string) error {
	switch {
	case filepath.IsAbs(path):
		return invalid(field, "%q is absolute; it is relative to log_directory", path)
	case !filepath.IsLocal(path) || filepath.Clean(path) == ".":
		return invalid(field, "%q leaves log_directory", path)
	case strings.ContainsRune(path, 0):
		return invalid(field, "%q has a NUL byte", path)
	}
	return nil
}

// id32 gives a user or group id. The largest number means "no id" to the
// kernel (setresuid(2)).
func id32(field string, n int64) (uint32, error) {
	if n < 0 || n >= math.MaxUint32 {
		return 0, invalid(field, "%d is not between 0 and %d", n, uint32(math.MaxUint32-1))
	}
	return uint32(n), nil
}

func at(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

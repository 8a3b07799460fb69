package main

import (
	"errors"
	"os"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// source says where a wanted image is to be had.
type source int

const (
	anywhere      source = iota // a bare name: the registry, else discovery
	onlyStore                   // an id, which nobody else knows
	onlyRegistry                // docker://, oci://
	onlyDiscovery               // appc://, or a name with labels
	atURL                       // http://, https://
	inFile
)

// wanted is an image as a person asks for it.
type wanted struct {
	from source
	text string // without its scheme, but for URLs
}

// schemes of references, that of rkt first.
func schemes() map[string]source {
	return map[string]source{
		"docker": onlyRegistry, "oci": onlyRegistry, "appc": onlyDiscovery, "file": inFile, "http": atURL, "https": atURL,
	}
}

// parseWanted tells what an argument means. Only whether a file of that name
// exists is asked of the disk.
func parseWanted(argument string) (wanted, error) {
	scheme, rest, hasScheme := strings.Cut(argument, "://")
	if from, known := schemes()[scheme]; hasScheme && known {
		switch {
		case rest == "":
			return wanted{}, errs.New("read name", errs.Invalid, image.Printable(argument), errors.New("nothing follows the scheme"))
		case from == atURL:
			rest = argument
		}
		return wanted{from, rest}, nil
	}
	switch {
	case hasScheme:
		return wanted{}, errs.New("read name", errs.Invalid, image.Printable(argument),
			errors.New("it is none of docker://, oci://, appc://, file://, http:// and https://"))
	case argument == "":
		return wanted{}, errs.New("read name", errs.Invalid, "IMAGE", errors.New("it is empty"))
	case isPath(argument):
		return wanted{inFile, argument}, nil
	case strings.HasPrefix(argument, "sha256:"), strings.HasPrefix(argument, "sha512-"), strings.HasPrefix(argument, "sha512:"):
		return wanted{onlyStore, argument}, nil
	case strings.Contains(argument, ","):
		return wanted{onlyDiscovery, argument}, nil
	}
	return wanted{anywhere, argument}, nil
}

// isPath says that an argument can only be a file: it begins as paths do, or
// it is one that is there, and ends as images do.
func isPath(s string) bool {
	if strings.HasPrefix(s, "/") || strings.HasPrefix(s, ".") {
		return true
	}
	for _, ending := range []string{".aci", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2"} {
		if strings.HasSuffix(s, ending) {
			fi, err := os.Stat(s)
			return err == nil && !fi.IsDir()
		}
	}
	return false
}

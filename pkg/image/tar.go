package image

import (
	"archive/tar"
	"strings"
)

// XattrRecord starts the PAX records of a tar that hold extended attributes.
const XattrRecord = "SCHILY.xattr."

// IsSparse says that an entry's content is not in the tar as it is in the
// tree.
func IsSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

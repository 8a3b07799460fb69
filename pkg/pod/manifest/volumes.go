package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
)

// EmptyVolume is a directory of the pod's own that its apps share (appc,
// "kind": "empty"; Kubernetes emptyDir). It is empty at first, and goes with
// the pod.
type EmptyVolume struct {
	Name string `json:"name"`           // lower-case letters, digits and '-' (appc AC Name)
	Mode uint32 `json:"mode,omitempty"` // see Permissions
	UID  uint32 `json:"uid,omitempty"`  // of the pod's user namespace, as GID
	GID  uint32 `json:"gid,omitempty"`
	// InMemory puts it on a tmpfs(5), which ends with the pod. It has room for
	// Size bytes; 0: for half of the host's memory.
	InMemory bool  `json:"inMemory,omitempty"`
	Size     int64 `json:"size,omitempty"`
}

// defaultVolumeMode is the mode of a volume that names none.
const defaultVolumeMode = 0o755

// Permissions gives the bits of chmod(2) that the volume is made with.
func (v EmptyVolume) Permissions() uint32 { return cmp.Or(v.Mode, defaultVolumeMode) }

// maxVolumes bounds the empty volumes of a pod.
const maxVolumes = 256

// maxModeBits are the permission bits of chmod(2).
const maxModeBits = 0o7777

// CheckVolumes says what of a pod's volumes can't be: errs.Invalid.
func CheckVolumes(volumes []EmptyVolume) error {
	const op = "check volume"
	if len(volumes) > maxVolumes {
		return errs.New(op, errs.Invalid, "", fmt.Errorf("%d are too many: a pod has %d at most", len(volumes), maxVolumes))
	}
	seen := map[string]bool{}
	for _, v := range volumes {
		switch subject := fmt.Sprintf("%.80q", v.Name); {
		case !IsName(v.Name):
			return errs.New(op, errs.Invalid, subject, errors.New("a name is lower-case letters, digits and '-', at most 63"))
		case seen[v.Name]:
			return errs.New(op, errs.Invalid, subject, errors.New("two volumes have this name"))
		case v.Mode > maxModeBits:
			return errs.New(op, errs.Invalid, subject, fmt.Errorf("%#o is no mode of a directory", v.Mode))
		case v.Size < 0 || v.Size > 0 && !v.InMemory:
			return errs.New(op, errs.Invalid, subject, fmt.Errorf("a size of %d bytes: only that of one in memory is limited", v.Size))
		}
		seen[v.Name] = true
	}
	return nil
}

// maxName bounds a name (RFC 1123, a DNS label).
const maxName = 63

// IsName reports whether s can name a part of a pod: an AC Name (appc, "AC
// Name Type") that also is a DNS label (RFC 1123). By hand, as the supervisor
// doesn't link regular expressions.
func IsName(s string) bool {
	outside := func(r rune) bool { return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') }
	return s != "" && len(s) <= maxName && s == strings.Trim(s, "-") && !strings.ContainsFunc(s, outside)
}

package podfile

import (
	"path/filepath"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// seccompDir is where kubelet looks for profiles that are named.
const seccompDir = "/var/lib/kubelet/seccomp"

// setProfile translates a profile, if there is one; the name of a local one is
// relative to dir, unless that is empty.
func setProfile(to **runtimeapi.SecurityProfile, path string, p *kubeProfile, dir string) error {
	if p == nil {
		return nil
	}
	kind, known := runtimeapi.SecurityProfile_ProfileType_value[p.Type]
	if !known {
		return invalid(path+".type", "%.80q is none of RuntimeDefault, Unconfined and Localhost", p.Type)
	}
	*to = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_ProfileType(kind), LocalhostRef: p.LocalhostProfile}
	if p.LocalhostProfile == "" || dir == "" {
		return nil
	}
	if !filepath.IsLocal(p.LocalhostProfile) {
		return invalid(path+".localhostProfile", "%.200q is no path below %s", p.LocalhostProfile, dir)
	}
	(*to).LocalhostRef = filepath.Join(dir, p.LocalhostProfile)
	return nil
}

// setProc hides what an app shouldn't see of /proc and /sys.
func setProc(path string, s *runtimeapi.LinuxContainerSecurityContext, mount string) error {
	switch mount {
	case "", "Default":
		s.MaskedPaths, s.ReadonlyPaths = ocispec.DefaultMaskedPaths(), ocispec.DefaultReadOnlyPaths()
	case "Unmasked":
	default:
		return invalid(path, "%.80q is neither Default nor Unmasked", mount)
	}
	return nil
}

func optional(n *int64) *runtimeapi.Int64Value {
	if n == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *n}
}

func formatInt(n int64) string { return strconv.FormatInt(n, 10) }

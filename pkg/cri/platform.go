package cri

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// platform is what of the host and of a pod's handler decides how a request
// is translated.
type platform struct {
	appArmor, selinux bool  // the kernel enforces it
	appArmorParser    bool  // profiles can be loaded
	recursiveReadOnly bool  // of the pod's handler
	noUsers           error // why the handler has no user namespaces; nil: it has
}

// with gives the platform of pods of a handler. One that is no longer
// configured has no features.
func (p platform) with(n Handlers, handler string) platform {
	p.noUsers = errors.New("the runtime handler is not configured")
	for _, h := range n.Handlers() {
		if h.Name == handler {
			p.recursiveReadOnly, p.noUsers = h.Features.RecursiveReadOnlyMounts, h.NoUsers
		}
	}
	return p
}

// detectPlatform looks at a mounted sysfs.
func detectPlatform(sysfs string) platform {
	enabled, err := os.ReadFile(filepath.Join(sysfs, "module/apparmor/parameters/enabled"))
	_, noSELinux := os.Stat(filepath.Join(sysfs, "fs/selinux/enforce"))
	_, noParser := exec.LookPath("apparmor_parser")
	return platform{
		appArmor: err == nil && bytes.HasPrefix(enabled, []byte("Y")),
		selinux:  noSELinux == nil,

		appArmorParser: noParser == nil,
	}
}

// DefaultAppArmor gives the AppArmor profile of apps for which nobody names
// one: the runtime's, where this host can load it, else none.
func DefaultAppArmor() string {
	return detectPlatform("/sys").defaultAppArmor()
}

func (p platform) defaultAppArmor() string {
	if p.appArmor && p.appArmorParser {
		return manifest.DefaultAppArmor
	}
	return ""
}

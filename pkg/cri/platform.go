package cri

import (
	"bytes"
	"os"
	"path/filepath"
)

// platform is what of the host and of a pod's handler decides how a request
// is translated.
type platform struct {
	appArmor, selinux bool // the kernel enforces it
	recursiveReadOnly bool // of the pod's handler
}

// detectPlatform looks at a mounted sysfs.
func detectPlatform(sysfs string) platform {
	enabled, err := os.ReadFile(filepath.Join(sysfs, "module/apparmor/parameters/enabled"))
	_, noSELinux := os.Stat(filepath.Join(sysfs, "fs/selinux/enforce"))
	return platform{
		appArmor: err == nil && bytes.HasPrefix(enabled, []byte("Y")),
		selinux:  noSELinux == nil,
	}
}

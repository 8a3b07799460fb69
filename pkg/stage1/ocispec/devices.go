package ocispec

import (
	"cmp"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Device is a device node that an app gets.
type Device struct {
	Path         string // in the app
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         os.FileMode // permission bits
	UID, GID     uint32
	Permissions  string // of "rwm"
}

// deviceNodes lists the nodes to make, sorted by path.
func deviceNodes(devices []Device) []specs.LinuxDevice {
	var list []specs.LinuxDevice
	for _, d := range devices {
		list = append(list, specs.LinuxDevice{
			Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor,
			FileMode: &d.Mode, UID: &d.UID, GID: &d.GID,
		})
	}
	slices.SortStableFunc(list, func(a, b specs.LinuxDevice) int { return cmp.Compare(a.Path, b.Path) })
	return list
}

// deviceRules say what an app may open. The runtimes add the devices that
// every app has (OCI runtime-spec, "Default Devices").
func deviceRules(in Input) []specs.LinuxDeviceCgroup {
	if in.App.Security.Privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range in.Devices {
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: &d.Major, Minor: &d.Minor, Access: d.Permissions})
	}
	return rules
}

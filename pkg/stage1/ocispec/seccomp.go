package ocispec

import (
	"errors"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
)

// MaxSeccompProfile bounds a profile of the host, in bytes.
const MaxSeccompProfile = 1 << 20

// seccompOf gives the filter of an app whose bounding set is given: the
// default profile allows more system calls to those that hold the capability
// they need. A privileged app has none.
func seccompOf(in Input, bounding []string) (*specs.LinuxSeccomp, error) {
	want := in.App.Security.Seccomp
	if want == nil || in.App.Security.Privileged {
		return nil, nil
	}
	confined := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: bounding}}}
	if want.Localhost == "" && want.Profile == nil {
		filter, err := seccomp.GetDefaultProfile(confined)
		if err != nil {
			return nil, errs.Wrap("filter system calls", "", err)
		}
		dropX32(filter)
		return filter, nil
	}
	profile, name := in.SeccompProfile, want.Localhost
	if want.Profile != nil {
		profile, name = want.Profile, "of the app"
	}
	filter, err := localProfile(profile, confined)
	if err != nil {
		return nil, errs.New("read seccomp profile", errs.Invalid, name, err)
	}
	return filter, nil
}

// localProfile reads a profile in the runtime-spec's form or in Docker's.
func localProfile(data []byte, confined *specs.Spec) (*specs.LinuxSeccomp, error) {
	if len(data) == 0 || len(data) > MaxSeccompProfile {
		return nil, errors.New("the file is empty or too large")
	}
	filter, err := seccomp.LoadProfile(string(data), confined)
	if err != nil {
		return nil, err
	}
	if filter == nil || filter.DefaultAction == "" {
		return nil, errors.New("the profile has no defaultAction")
	}
	return filter, nil
}

// dropX32 takes the x32 ABI out of the default profile: kernels have it
// switched off, and the runtimes spend a third of the time that they need to
// build the filter, 10 ms of CPU time for every start, on it.
func dropX32(filter *specs.LinuxSeccomp) {
	filter.Architectures = slices.DeleteFunc(filter.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
}

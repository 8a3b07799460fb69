package ocispec

import (
	"errors"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
)

// AllCapabilities gives the name of every capability (capabilities(7)), at
// its number.
func AllCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
		"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
		"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
		"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
		"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// DefaultCapabilities are those of an app that asks for none and drops none:
// what Docker gave to containers, and so what images expect.
func DefaultCapabilities() []string {
	return []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}

// CapabilityRequest says how an app's capabilities differ from the default
// ones. Names may lack "CAP_" and be in lower case; "ALL" stands for all.
type CapabilityRequest struct {
	Add, Drop []string
	// Privileged apps have all, whatever they add or drop.
	Privileged bool
}

// ResolveCapabilities gives the capabilities of an app, sorted, on a host
// with the given ones (Host.Capabilities). ALL counts before single names, and
// adding before dropping, as with CRI's Capability. A default capability that
// the host lacks is left out; one asked for by name is errs.Denied there, and
// a name that does not exist errs.Invalid.
func ResolveCapabilities(r CapabilityRequest, host []string) ([]string, error) {
	if r.Privileged {
		return sortedSet(host), nil
	}
	add, addAll, err := capabilityNames(r.Add)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := capabilityNames(r.Drop)
	if err != nil {
		return nil, err
	}
	base := DefaultCapabilities()
	if addAll {
		base = slices.Clone(host)
	}
	if dropAll {
		base = nil
	}
	have := slices.DeleteFunc(base, func(name string) bool { return !slices.Contains(host, name) })
	for _, name := range add {
		if err := checkCapability(name, host); err != nil && !slices.Contains(drop, name) {
			return nil, err
		}
		have = append(have, name)
	}
	return sortedSet(slices.DeleteFunc(have, func(name string) bool { return slices.Contains(drop, name) })), nil
}

// CapabilityNames spells names as the kernel's documentation does; one that
// does not exist is errs.Invalid. ALL stands for all of the host's.
func CapabilityNames(names, host []string) ([]string, error) {
	list, all, err := capabilityNames(names)
	if all {
		list = append(list, host...)
	}
	return sortedSet(list), err
}

func capabilityNames(names []string) (list []string, all bool, err error) {
	for _, name := range names {
		upper := strings.ToUpper(name)
		if upper == "ALL" || upper == "CAP_ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(upper, "CAP_") {
			upper = "CAP_" + upper
		}
		if !slices.Contains(AllCapabilities(), upper) {
			return nil, false, unknownCapability(name)
		}
		list = append(list, upper)
	}
	return list, all, nil
}

func checkCapability(name string, host []string) error {
	switch {
	case !slices.Contains(AllCapabilities(), name):
		return unknownCapability(name)
	case !slices.Contains(host, name):
		return errs.New("add capability", errs.Denied, name, errors.New("this server does not have it and can't give it away"))
	}
	return nil
}

func unknownCapability(name string) error {
	return errs.New("add capability", errs.Invalid, name, errors.New("there is no such capability"))
}

func sortedSet(names []string) []string {
	set := slices.Clone(names)
	slices.Sort(set)
	return slices.Compact(set)
}

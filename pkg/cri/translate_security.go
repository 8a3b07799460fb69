package cri

import (
	"cmp"
	"regexp"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// privilege says whether confinement applies at all.
type privilege bool

const (
	unprivileged privilege = false
	privileged   privilege = true
)

// userFields are what sandboxes and containers both say about their user.
type userFields interface {
	GetRunAsUser() *runtimeapi.Int64Value
	GetRunAsGroup() *runtimeapi.Int64Value
	GetSupplementalGroups() []int64
	GetSupplementalGroupsPolicy() runtimeapi.SupplementalGroupsPolicy
}

func translateUser(field string, s userFields) (u stage0.UserRequest, err error) {
	if named, can := s.(interface{ GetRunAsUsername() string }); can {
		u.Username = named.GetRunAsUsername()
	}
	if u.UID, err = optionalID(field+".run_as_user", s.GetRunAsUser()); err != nil {
		return u, err
	}
	if u.GID, err = optionalID(field+".run_as_group", s.GetRunAsGroup()); err != nil {
		return u, err
	}
	switch {
	case u.UID != nil && u.Username != "":
		return u, invalid(field, "has both run_as_user and run_as_username")
	case u.GID != nil && u.UID == nil && u.Username == "":
		return u, invalid(field+".run_as_group", "is set without run_as_user or run_as_username")
	}
	if err := checkText(field+".run_as_username", u.Username); err != nil {
		return u, err
	}
	for i, g := range s.GetSupplementalGroups() {
		gid, err := id32(at(field+".supplemental_groups", i), g)
		if err != nil {
			return u, err
		}
		u.Supplemental = append(u.Supplemental, gid)
	}
	switch s.GetSupplementalGroupsPolicy() {
	case runtimeapi.SupplementalGroupsPolicy_Merge:
	case runtimeapi.SupplementalGroupsPolicy_Strict:
		u.Strict = true
	default:
		return u, invalid(field+".supplemental_groups_policy", "%d is no policy", s.GetSupplementalGroupsPolicy())
	}
	return u, nil
}

func optionalID(field string, v *runtimeapi.Int64Value) (*uint32, error) {
	if v == nil {
		return nil, nil
	}
	id, err := id32(field, v.GetValue())
	if err != nil {
		return nil, err
	}
	return &id, nil
}

var capabilityForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

// checkCapabilities looks at the form only: the engine knows their names.
func checkCapabilities(field string, names []string) error {
	for i, name := range names {
		if !capabilityForm.MatchString(name) {
			return invalid(at(field, i), "%.80q is no capability", name)
		}
	}
	return nil
}

// profile is a SecurityProfile or the deprecated string that it replaced.
type profile struct {
	kind runtimeapi.SecurityProfile_ProfileType
	name string // with Localhost
}

// readProfile lets the deprecated string speak only without a profile, and
// gives nil when there is neither.
func readProfile(field string, p *runtimeapi.SecurityProfile, old string) (*profile, error) {
	if p == nil {
		return readOldProfile(field, old)
	}
	read := &profile{kind: p.GetProfileType(), name: p.GetLocalhostRef()}
	switch read.kind {
	case runtimeapi.SecurityProfile_RuntimeDefault, runtimeapi.SecurityProfile_Unconfined:
		if read.name != "" {
			return nil, invalid(field+".localhost_ref", "is set while profile_type is %s", read.kind)
		}
	case runtimeapi.SecurityProfile_Localhost:
		if read.name == "" {
			return nil, invalid(field+".localhost_ref", "is empty while profile_type is Localhost")
		}
	default:
		return nil, invalid(field+".profile_type", "%d is no type of profile", read.kind)
	}
	return read, nil
}

func readOldProfile(field, old string) (*profile, error) {
	switch old {
	case "":
		return nil, nil
	case "runtime/default", "docker/default":
		return &profile{kind: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case "unconfined":
		return &profile{kind: runtimeapi.SecurityProfile_Unconfined}, nil
	}
	name, local := strings.CutPrefix(old, "localhost/")
	if !local || name == "" {
		return nil, invalid(field, "%.120q is no profile", old)
	}
	return &profile{kind: runtimeapi.SecurityProfile_Localhost, name: name}, nil
}

// seccompFields and appArmorFields are how a profile is told, and how it was
// told before there were profiles.
type seccompFields interface {
	GetSeccomp() *runtimeapi.SecurityProfile
	GetSeccompProfilePath() string
}

type appArmorFields interface {
	GetApparmor() *runtimeapi.SecurityProfile
	GetApparmorProfile() string
}

// translateSeccomp gives nil for unconfined, which is what CRI means when it
// says nothing.
func translateSeccomp(field string, s seccompFields, who privilege) (*manifest.Seccomp, error) {
	field += ".seccomp"
	read, err := readProfile(field, s.GetSeccomp(), s.GetSeccompProfilePath())
	if err != nil || read == nil || read.kind == runtimeapi.SecurityProfile_Unconfined {
		return nil, err
	}
	if read.kind == runtimeapi.SecurityProfile_Localhost {
		if err := checkAbsolute(field+".localhost_ref", read.name); err != nil {
			return nil, err
		}
	}
	if who == privileged {
		return nil, nil
	}
	return &manifest.Seccomp{Localhost: read.name}, nil
}

// translateAppArmor gives the name of a profile that is loaded on the host, or
// that the engine loads: the runtime's default. That is also the profile of
// containers that say nothing, where the host can load it. On a host without
// AppArmor a default is nothing, and a profile by name can't be.
func translateAppArmor(field string, s appArmorFields, who privilege, host platform) (string, error) {
	field += ".apparmor"
	read, err := readProfile(field, s.GetApparmor(), s.GetApparmorProfile())
	if err != nil {
		return "", err
	}
	if read == nil {
		if who == unprivileged {
			return host.defaultAppArmor(), nil
		}
		return "", nil
	}
	switch {
	case read.kind == runtimeapi.SecurityProfile_Unconfined && host.appArmor:
		return "unconfined", nil
	case read.kind == runtimeapi.SecurityProfile_Localhost && !host.appArmor:
		return "", unsupported(field, "this host has no AppArmor, which profile %.120q needs", read.name)
	case read.kind == runtimeapi.SecurityProfile_Localhost:
		return strings.TrimPrefix(read.name, "localhost/"), checkText(field+".localhost_ref", read.name)
	case read.kind == runtimeapi.SecurityProfile_RuntimeDefault && host.appArmor && who == unprivileged:
		return manifest.DefaultAppArmor, nil
	}
	return "", nil
}

// selinuxLabel gives a label with what is not said filled in as container
// policies have it; empty on a host without SELinux, where the option has
// no effect.
func selinuxLabel(o *runtimeapi.SELinuxOption, host platform) string {
	if !host.selinux || o == nil || (o.GetUser() == "" && o.GetRole() == "" && o.GetType() == "" && o.GetLevel() == "") {
		return ""
	}
	return strings.Join([]string{
		cmp.Or(o.GetUser(), "system_u"), cmp.Or(o.GetRole(), "system_r"),
		cmp.Or(o.GetType(), "container_t"), cmp.Or(o.GetLevel(), "s0"),
	}, ":")
}

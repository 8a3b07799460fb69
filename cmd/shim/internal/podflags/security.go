package podflags

import (
	"cmp"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/podfile"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// The words of --seccomp that are no paths.
const (
	seccompDefault    = "default"
	seccompUnconfined = "unconfined"
)

// confine fills how an app is confined; appArmor is the profile that apps of
// this host have.
func (a *App) confine(r *stage0.AppRequest, appArmor string) (err error) {
	if len(a.capsRetain) > 0 && len(a.capsRemove) > 0 {
		return invalid("caps-retain", "--caps-remove can't be given with it: name all that are retained")
	}
	host := ocispec.AllCapabilities()
	for flag, names := range map[string][]string{"caps-retain": a.capsRetain, "caps-remove": a.capsRemove} {
		if _, err := ocispec.CapabilityNames(names, host); err != nil {
			return invalid(flag, "%v", err)
		}
	}
	r.DropCapabilities = a.capsRemove
	if len(a.capsRetain) > 0 {
		r.AddCapabilities, r.DropCapabilities = a.capsRetain, []string{"ALL"}
	}
	r.App.Rootfs.ReadOnly = a.readOnly
	r.App.Security = podfile.DefaultSecurity()
	r.App.Security.NoNewPrivs, r.App.Security.AppArmor = a.noNewPrivs, appArmor
	r.App.Security.Seccomp, err = a.filter()
	return err
}

// filter gives nil for none.
func (a *App) filter() (*manifest.Seccomp, error) {
	const flag = "seccomp"
	if len(a.seccomp) > 0 && strings.Contains(a.seccomp[0], "=") {
		return a.callFilter()
	}
	if len(a.seccomp) > 1 {
		return nil, invalid(flag, "one profile is enough; a list of calls begins with mode=retain or mode=remove")
	}
	switch word := strings.Join(a.seccomp, ""); {
	case word == "", word == seccompDefault:
		return &manifest.Seccomp{}, nil
	case word == seccompUnconfined:
		return nil, nil
	case filepath.IsAbs(word):
		return &manifest.Seccomp{Localhost: word}, nil
	default:
		return nil, invalid(flag, "%.120q is none of default, unconfined, an absolute path and mode=retain|remove,CALL,…", word)
	}
}

// callFilter reads rkt's mode=retain|remove[,errno=NAME],CALL,….
func (a *App) callFilter() (*manifest.Seccomp, error) {
	var f ocispec.Filter
	for _, part := range a.seccomp {
		key, value, found := strings.Cut(part, "=")
		switch {
		case !found:
			f.Names = append(f.Names, part)
		case key == "mode":
			f.Mode = ocispec.FilterMode(value)
		case key == "errno":
			f.Errno = value
		default:
			return nil, invalid("seccomp", "%.80q is neither mode=, errno= nor a system call", part)
		}
	}
	s, err := f.Seccomp()
	if err != nil {
		return nil, invalid("seccomp", "%v", err)
	}
	return s, nil
}

// userOf gives who an app runs as.
func (a *App) userOf() (u stage0.UserRequest, err error) {
	u.Username, u.Groupname = a.user, a.group
	if a.group != "" {
		u.Username = cmp.Or(a.user, "0") // appc: each of the two may be given alone
	}
	for _, text := range a.gids {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil || id >= 1<<32-1 {
			return u, invalid("supplementary-gids", "%.40q is no number of a group", text)
		}
		u.Supplemental = append(u.Supplemental, uint32(id))
	}
	return u, nil
}

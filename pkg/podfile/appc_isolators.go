package podfile

import (
	"os"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// Isolators of an app that are honoured (ace.md, "Isolators").
const (
	retainCapabilities = "os/linux/capabilities-retain-set"
	removeCapabilities = "os/linux/capabilities-remove-set"
	retainCalls        = "os/linux/seccomp-retain-set"
	removeCalls        = "os/linux/seccomp-remove-set"
	noNewPrivileges    = "os/linux/no-new-privileges"
	oomScoreAdj        = "os/linux/oom-score-adj"
	cpuSharesIsolator  = "os/linux/cpu-shares"
	selinuxContext     = "os/linux/selinux-context"
	appArmorProfile    = "os/linux/apparmor-profile"
	resourceCPU        = "resource/cpu"
	resourceMemory     = "resource/memory"
)

// isolate applies isolators; of each kind there is one at most.
func (t *translation) isolate(all []appc.Isolator) error {
	seen := map[string]bool{}
	for i, isolator := range all {
		path := under(t.path, at("isolators", i)) + ".value"
		kind := strings.TrimSuffix(strings.TrimSuffix(isolator.Name, "retain-set"), "remove-set")
		if seen[kind] {
			return invalid(path, "%.80q: of this kind an app has one isolator at most", isolator.Name)
		}
		seen[kind] = true
		apply, known := map[string]func(string, []byte) error{
			retainCapabilities: t.retainCapabilities, removeCapabilities: t.removeCapabilities,
			retainCalls: t.filter(ocispec.Retain), removeCalls: t.filter(ocispec.Remove),
			noNewPrivileges: t.noNewPrivileges, oomScoreAdj: t.oomScore, cpuSharesIsolator: t.shares,
			selinuxContext: t.selinux, appArmorProfile: t.appArmor,
			resourceCPU: t.cpu, resourceMemory: t.memory,
		}[isolator.Name]
		if !known {
			t.note(at("isolators", i), isolator.Name+" is "+notHonoured)
			continue
		}
		if t.ofImage && t.asked(isolator.Name) {
			continue
		}
		if err := apply(path, isolator.Value); err != nil {
			return err
		}
	}
	return nil
}

// asked reports whether who runs an app says himself what an isolator of its
// image is about.
func (t *translation) asked(isolator string) bool {
	switch isolator {
	case retainCapabilities, removeCapabilities:
		return len(t.said.AddCapabilities)+len(t.said.DropCapabilities) > 0
	case retainCalls, removeCalls:
		s := t.said.App.Security.Seccomp
		return s == nil || s.Localhost != "" || s.Profile != nil
	case oomScoreAdj:
		return t.said.App.Resources.OOMScoreAdj != 0
	case cpuSharesIsolator:
		return t.said.App.Resources.CPUShares != 0
	case resourceCPU:
		return t.said.App.Resources.CPUQuota != 0 || t.said.App.Resources.CPUShares != 0
	case resourceMemory:
		return t.said.App.Resources.MemoryLimit != 0
	}
	return false
}

type set struct {
	Set   []string `json:"set"`
	Errno string   `json:"errno"`
}

func (t *translation) set(path string, value []byte) (s set, err error) {
	if err := decode(path, value, &s); err != nil {
		return s, err
	}
	if len(s.Set) == 0 {
		return s, invalid(path+".set", "is empty")
	}
	return s, nil
}

func (t *translation) capabilities(path string, value []byte) ([]string, error) {
	s, err := t.set(path, value)
	if err != nil {
		return nil, err
	}
	names, err := ocispec.CapabilityNames(s.Set, ocispec.AllCapabilities())
	return names, errs.Wrap("check", path, err)
}

// retainCapabilities leaves an image none that the default set hasn't.
func (t *translation) retainCapabilities(path string, value []byte) error {
	names, err := t.capabilities(path, value)
	if err != nil {
		return err
	}
	if t.ofImage {
		names = slices.DeleteFunc(names, func(name string) bool {
			beyond := !slices.Contains(ocispec.DefaultCapabilities(), name)
			if beyond {
				t.notes = append(t.notes, Note{path, name + " is not an image's to give: ask for it with --caps-retain"})
			}
			return beyond
		})
	}
	t.app.DropCapabilities = append(t.app.DropCapabilities, "ALL")
	t.app.AddCapabilities = append(t.app.AddCapabilities, names...)
	return nil
}

func (t *translation) removeCapabilities(path string, value []byte) error {
	names, err := t.capabilities(path, value)
	t.app.DropCapabilities = append(t.app.DropCapabilities, names...)
	return err
}

func (t *translation) filter(mode ocispec.FilterMode) func(string, []byte) error {
	return func(path string, value []byte) error {
		s, err := t.set(path, value)
		if err != nil {
			return err
		}
		f := ocispec.Filter{Mode: mode, Names: s.Set, Errno: s.Errno, Narrow: t.ofImage}
		profile, err := f.Seccomp()
		if err != nil {
			return invalid(path, "%v", err)
		}
		t.app.App.Security.Seccomp = profile
		return nil
	}
}

func (t *translation) noNewPrivileges(path string, value []byte) error {
	var on bool
	err := decode(path, value, &on)
	t.app.App.Security.NoNewPrivs = t.app.App.Security.NoNewPrivs || on
	return err
}

func (t *translation) oomScore(path string, value []byte) error {
	var n int64
	if err := decode(path, value, &n); err != nil {
		return err
	}
	if n < -1000 || n > 1000 {
		return invalid(path, "%d is not between -1000 and 1000", n)
	}
	if n < 0 && t.ofImage {
		t.notes = append(t.notes, Note{path, "less than 0 is not an image's to ask for"})
		return nil
	}
	t.app.App.Resources.OOMScoreAdj = n
	return nil
}

func (t *translation) shares(path string, value []byte) error {
	var n int64
	if err := decode(path, value, &n); err != nil {
		return err
	}
	if n < minShares || n > maxShares {
		return invalid(path, "%d is not between %d and %d", n, minShares, maxShares)
	}
	t.app.App.Resources.CPUShares = n
	return nil
}

func (t *translation) selinux(path string, value []byte) error {
	var c kubeSELinux
	if err := decode(path, value, &c); err != nil {
		return err
	}
	for _, part := range []string{c.User, c.Role, c.Type} {
		if part == "" || strings.ContainsAny(part, ": \n\x00") {
			return invalid(path, "a context has a user, a role, a type and a level")
		}
	}
	if t.label(path, "/sys/fs/selinux/enforce", "SELinux") {
		t.app.App.Security.SELinuxLabel = strings.Join([]string{c.User, c.Role, c.Type, c.Level}, ":")
	}
	return nil
}

// label reports whether an app may have a label, and else tells why not.
func (t *translation) label(path, enabled, what string) bool {
	_, err := os.Stat(enabled)
	switch {
	case t.ofImage:
		t.notes = append(t.notes, Note{path, "it is not an image's to choose"})
	case err != nil:
		t.notes = append(t.notes, Note{path, "this host has no " + what})
	default:
		return true
	}
	return false
}

func (t *translation) appArmor(path string, value []byte) error {
	var p struct {
		Profile string `json:"profile"`
	}
	if err := decode(path, value, &p); err != nil {
		return err
	}
	if t.label(path, "/sys/kernel/security/apparmor", "AppArmor") {
		t.app.App.Security.AppArmor = p.Profile
	}
	return nil
}

type amount struct {
	Default bool      `json:"default"`
	Request *Quantity `json:"request"`
	Limit   *Quantity `json:"limit"`
}

func (t *translation) cpu(path string, value []byte) error {
	var a amount
	if err := decode(path, value, &a); err != nil {
		return err
	}
	res := &t.app.App.Resources
	if a.Limit != nil {
		LimitCPU(res, *a.Limit)
	}
	if a.Request != nil {
		res.CPUShares = cpuShares(a.Request.Milli())
	}
	return nil
}

func (t *translation) memory(path string, value []byte) error {
	var a amount
	if err := decode(path, value, &a); err != nil {
		return err
	}
	if a.Limit != nil {
		t.app.App.Resources.MemoryLimit = a.Limit.Units()
	}
	if a.Request != nil && a.Limit == nil {
		t.notes = append(t.notes, Note{path + ".request", "nothing is set aside; a limit would hold"})
	}
	return nil
}

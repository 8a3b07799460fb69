package nri

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/nri/pkg/api"

	"github.com/stagelet/stagelet/internal/errs"
)

// wrong is the error about something that plugins want and can't have.
func wrong(kind errs.Kind, what, format string, args ...any) error {
	return errs.New("adjust as NRI plugins want", kind, what, fmt.Errorf(format, args...))
}

// checkAdjustment refuses what would not work or is not offered: nothing that
// a plugin wants is left out in silence. What an OCI runtime or the kernel
// alone can judge is theirs to refuse.
func checkAdjustment(a *api.ContainerAdjustment) error {
	var all []error
	for _, m := range a.GetMounts() {
		all = append(all, checkMount(m))
	}
	for _, kv := range a.GetEnv() {
		key, _ := kv.IsMarkedForRemoval()
		if key == "" || strings.ContainsAny(key, "=\x00") || strings.Contains(kv.GetValue(), "\x00") {
			all = append(all, wrong(errs.Invalid, "variable", "%.80q has no name, or a zero byte", key))
		}
	}
	for _, l := range a.GetRlimits() {
		all = append(all, checkRlimit(l))
	}
	all = append(all, checkHooks(a.GetHooks()), checkLinux(a.GetLinux()), checkResources(a.GetLinux().GetResources()))
	return errors.Join(all...)
}

// checkPath wants an absolute path without detours: what a plugin names is
// what is meant.
func checkPath(what, name string) error {
	if !path.IsAbs(name) || path.Clean(name) != name || strings.Contains(name, "\x00") {
		return wrong(errs.Invalid, what, "%.160q is not an absolute path without detours", name)
	}
	return nil
}

func checkMount(m *api.Mount) error {
	destination, removed := m.IsMarkedForRemoval()
	what := fmt.Sprintf("mount %.160q", destination)
	if err := checkPath(what, destination); err != nil || removed {
		return err
	}
	if destination == "/" {
		return wrong(errs.Invalid, what, "the root is the image's")
	}
	if isBind(m) {
		return checkPath(what+": source", m.GetSource())
	}
	if !slices.Contains([]string{"tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "hugetlbfs"}, m.GetType()) {
		return wrong(errs.Unsupported, what, "a file system of type %.40q can't be mounted for an app", m.GetType())
	}
	return nil
}

func isBind(m *api.Mount) bool {
	return m.GetType() == "bind" || slices.Contains(m.GetOptions(), "bind") || slices.Contains(m.GetOptions(), "rbind")
}

// checkRlimit knows the limits of setrlimit(2).
func checkRlimit(l *api.POSIXRlimit) error {
	names := []string{
		"AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO",
		"RTTIME", "SIGPENDING", "STACK",
	}
	name, ok := strings.CutPrefix(l.GetType(), "RLIMIT_")
	switch {
	case !ok || !slices.Contains(names, name):
		return wrong(errs.Invalid, "limit", "%.40q is none of setrlimit(2)", l.GetType())
	case l.GetSoft() > l.GetHard():
		return wrong(errs.Invalid, l.GetType(), "the soft limit %d is above the hard one, %d", l.GetSoft(), l.GetHard())
	}
	return nil
}

func checkHooks(h *api.Hooks) error {
	for _, hook := range slices.Concat(h.GetPrestart(), h.GetCreateRuntime(), h.GetCreateContainer(), h.GetStartContainer(), h.GetPoststart(), h.GetPoststop()) {
		if err := checkPath("hook", hook.GetPath()); err != nil {
			return err
		}
		if t := hook.GetTimeout(); t != nil && t.GetValue() <= 0 {
			return wrong(errs.Invalid, "hook "+hook.GetPath(), "a time-out of %d s", t.GetValue())
		}
	}
	return nil
}

func checkLinux(l *api.LinuxContainerAdjustment) error {
	for _, d := range l.GetDevices() {
		if err := checkDevice(d); err != nil {
			return err
		}
	}
	for _, n := range l.GetNamespaces() {
		t, removed := n.IsMarkedForRemoval()
		if !slices.Contains([]string{"network", "ipc", "uts", "cgroup", "time"}, t) {
			return wrong(errs.Unsupported, "namespace", "of type %.40q an app has the pod's", t)
		}
		if n.GetPath() != "" && !removed {
			if err := checkPath(t+" namespace", n.GetPath()); err != nil {
				return err
			}
		}
	}
	if l.GetCgroupsPath() != "" {
		return wrong(errs.Unsupported, "cgroup", "an app's cgroup is below its pod's, and named after the app")
	}
	if s := l.GetOomScoreAdj(); s != nil && (s.GetValue() < -1000 || s.GetValue() > 1000) {
		return wrong(errs.Invalid, "OOM score adjustment", "%d is not within -1000 and 1000", s.GetValue())
	}
	return nil
}

func checkDevice(d *api.LinuxDevice) error {
	name, removed := d.IsMarkedForRemoval()
	what := fmt.Sprintf("device %.160q", name)
	if err := checkPath(what, name); err != nil || removed {
		return err
	}
	switch {
	case !slices.Contains([]string{"b", "c", "u", "p"}, d.GetType()):
		return wrong(errs.Invalid, what, "%.40q is no type of device: b, c, u or p", d.GetType())
	case d.GetMajor() < 0 || d.GetMinor() < 0 || d.GetMajor() >= 1<<12 || d.GetMinor() >= 1<<20:
		return wrong(errs.Invalid, what, "there is no device %d:%d", d.GetMajor(), d.GetMinor())
	}
	return nil
}

// checkResources refuses what has no effect here.
func checkResources(r *api.LinuxResources) error {
	switch {
	case r.GetBlockioClass() != nil:
		return wrong(errs.Unsupported, "block I/O class", "no classes are configured here")
	case r.GetRdtClass() != nil:
		return wrong(errs.Unsupported, "RDT class", "no classes are configured here; name a CLOS instead")
	}
	return nil
}

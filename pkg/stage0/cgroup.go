package stage0

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/systemd"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// CgroupDriver says who makes the cgroups that pods live in. A host has one
// who does, and kubelet has to ask the same one (CRI RuntimeConfig).
type CgroupDriver string

// The drivers. With Systemd a pod has one scope unit in its slice; the cgroups
// of its supervisor and apps are below that, delegated to us, so that nobody
// else takes one away before it was read how its processes ended.
const (
	CgroupFS CgroupDriver = "cgroupfs" // we do
	Systemd  CgroupDriver = "systemd"
)

// HostCgroupDriver is systemd where that is the service manager.
func HostCgroupDriver() CgroupDriver {
	if systemd.Booted() {
		return Systemd
	}
	return CgroupFS
}

// ourSlice holds the pods that nobody named a cgroup parent for.
const ourSlice = "stagelet"

func scopeOf(pod string) string { return "stagelet-" + pod + ".scope" }

// place says where a pod's cgroups are to be. A parent that the driver can't
// serve is errs.Invalid.
func (d CgroupDriver) place(p *manifest.Pod) error {
	p.OwnsCgroupParent = p.CgroupParent == ""
	slice := strings.HasSuffix(p.CgroupParent, ".slice")
	bad := func(format string, args ...any) error {
		return errs.New("place cgroup", errs.Invalid, "cgroup_parent", fmt.Errorf("%.200q "+format, append([]any{p.CgroupParent}, args...)...))
	}
	if d != Systemd {
		if p.OwnsCgroupParent {
			p.CgroupParent = "/stagelet/" + p.ID
		}
		if slice {
			return bad("is a slice, and this node's cgroup driver is %s; set cgroupDriver: cgroupfs in kubelet's configuration, or cgroup.driver: systemd in stagelet's", d)
		}
		return sys.CheckCgroupPath(p.CgroupParent)
	}
	name := path.Base(p.CgroupParent)
	switch {
	case p.OwnsCgroupParent:
		name = ourSlice + "-" + p.ID + ".slice"
	case !slice:
		return bad("is no slice, and this node's cgroup driver is %s; set cgroupDriver: systemd in kubelet's configuration, or cgroup.driver: cgroupfs in stagelet's", d)
	}
	where, err := systemd.SlicePath(name)
	if err != nil {
		return err
	}
	if path.IsAbs(p.CgroupParent) && p.CgroupParent != where {
		return bad("is not where systemd has the slice: at %s", where)
	}
	p.CgroupParent, p.CgroupScope = where, scopeOf(p.ID)
	return sys.CheckCgroupPath(where)
}

// enterScope makes the pod's scope of its supervisor, which waits for it.
func (e *Engine) enterScope(ctx context.Context, p *manifest.Pod, pid int) error {
	err := systemd.StartScope(ctx, systemd.Scope{
		Name: p.CgroupScope, Slice: path.Base(p.CgroupParent), Description: "Pod " + podName(p), PID: pid,
	})
	if err != nil {
		return err
	}
	cgroup := p.Cgroup(p.ID)
	if err := e.cgroups.Create(cgroup); err != nil {
		return err
	}
	return e.cgroups.Move(cgroup, pid)
}

// removeCgroups kills whatever of a pod still runs and removes the cgroups.
func (e *Engine) removeCgroups(ctx context.Context, p *manifest.Pod, apps []string) error {
	var held, units []string
	if p.CgroupScope != "" {
		held, units = []string{path.Join(p.CgroupParent, p.CgroupScope)}, []string{p.CgroupScope}
	} else {
		for _, id := range append([]string{p.ID}, apps...) {
			held = append(held, p.Cgroup(id))
		}
	}
	if p.OwnsCgroupParent {
		held = []string{p.CgroupParent}
		if p.CgroupScope != "" {
			units = append(units, path.Base(p.CgroupParent))
		}
	}
	var all []error
	for _, cgroup := range held {
		all = append(all, e.cgroups.Kill(ctx, cgroup))
	}
	for _, unit := range units { // before systemd's own cgroups go
		all = append(all, systemd.Stop(ctx, unit))
	}
	for _, cgroup := range held {
		all = append(all, e.cgroups.Remove(cgroup))
	}
	return errors.Join(all...)
}

// discardCgroups kills and removes every cgroup of that name, wherever it is,
// and the scope that it would have as a pod's.
func (e *Engine) discardCgroups(ctx context.Context, name string) error {
	names := []string{name}
	if e.CgroupManager == Systemd {
		names = append(names, scopeOf(name))
	}
	for _, name := range names {
		found, err := e.cgroups.Find(name)
		if err != nil {
			return err
		}
		for _, cgroup := range found {
			err = errors.Join(err, e.cgroups.Kill(ctx, cgroup))
			if strings.HasSuffix(name, ".scope") {
				err = errors.Join(err, systemd.Stop(ctx, name))
			}
			err = errors.Join(err, e.cgroups.Remove(cgroup))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

package stage0

import (
	"slices"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// What pods and apps take up is read from the kernel by us, never asked of a
// supervisor or a runtime: one that hangs delays nobody.

// Usage is what an app or a pod takes up at one instant.
type Usage struct {
	sys.CgroupStats // of an app that doesn't run: nothing, and no Time

	// NanoCores is the CPU time used per second lately, in ns; nil until
	// there were two readings.
	NanoCores *uint64
	Layer     *LayerUsage             // apps only; nil until MeasureLayers got to it
	Network   []sys.InterfaceCounters // pods with a network of their own; the first is the default one
}

// Details are a Usage, and what monitoring wants to know beside it.
type Details struct {
	Usage
	sys.CgroupDetails
	Cgroup    string     // path
	Procs     uint64     // processes, of however many threads
	OpenFiles *OpenFiles // running apps only
}

// OpenFiles counts the descriptors of an app's processes.
type OpenFiles struct {
	Files, Sockets uint64
	Limit          *uint64 // RLIMIT_NOFILE of the first process; nil: none
}

// AppUsage measures one app. Of one that doesn't run only the writable layer
// is left. An app that ends meanwhile is errs.NotFound.
func (e *Engine) AppUsage(id string) (Usage, error) {
	p, a, err := e.App(id)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Layer: e.layers.usage(a.ID)}
	if a.Status.State != manifest.AppRunning {
		return u, nil
	}
	stats, err := e.cgroups.Stats(p.Pod.Cgroup(a.ID))
	if err != nil {
		return Usage{}, errs.Wrap("measure app", a.Name, err)
	}
	u.CgroupStats = *stats
	u.NanoCores = e.rates.nanoCores(a.ID, stats.Time, stats.CPU.Nanos)
	return u, nil
}

// AppDetails measures a running app; one that doesn't run is
// errs.Precondition.
func (e *Engine) AppDetails(id string) (Details, error) {
	const op = "measure app"
	p, a, err := e.App(id)
	if err != nil {
		return Details{}, err
	}
	if a.Status.State != manifest.AppRunning {
		return Details{}, errs.New(op, errs.Precondition, a.Name, errNotRunning)
	}
	var d Details
	if d.Usage, err = e.AppUsage(a.ID); err != nil {
		return Details{}, err
	}
	cgroup := p.Pod.Cgroup(a.ID)
	pids, err := e.cgroups.Members(cgroup)
	if err != nil {
		return Details{}, errs.Wrap(op, a.Name, err)
	}
	d.Cgroup, d.Procs = cgroup, uint64(len(pids))
	if files, sockets, whole := sys.OpenFiles(pids); whole {
		d.OpenFiles = &OpenFiles{Files: files, Sockets: sockets}
		if limit, limited := sys.OpenFilesLimit(a.Status.PID); limited {
			d.OpenFiles.Limit = &limit
		}
	}
	d.CgroupDetails, err = e.cgroups.Details(cgroup)
	return d, errs.Wrap(op, a.Name, err)
}

// PodUsage measures a pod as a whole: the cgroup that holds those of its apps
// and of its supervisor, and its interfaces. A pod that doesn't run is
// errs.Precondition.
func (e *Engine) PodUsage(id string) (Usage, error) {
	const op = "measure pod"
	p, err := e.Pod(id)
	if err != nil {
		return Usage{}, err
	}
	if p.State != pod.Running {
		return Usage{}, errs.New(op, errs.Precondition, podName(p.Pod), errNotRunning)
	}
	stats, err := e.cgroups.Stats(p.Pod.CgroupParent)
	if err != nil {
		return Usage{}, errs.Wrap(op, podName(p.Pod), err)
	}
	return Usage{
		CgroupStats: *stats,
		NanoCores:   e.rates.nanoCores(p.Pod.ID, stats.Time, stats.CPU.Nanos),
		Network:     e.interfaces(p),
	}, nil
}

// PodDetails measures a pod as PodUsage does, and in more detail.
func (e *Engine) PodDetails(id string) (Details, error) {
	var d Details
	var err error
	if d.Usage, err = e.PodUsage(id); err != nil {
		return Details{}, err
	}
	p, err := e.Pod(id)
	if err != nil {
		return Details{}, err
	}
	pids, err := e.cgroups.Members(p.Pod.CgroupParent)
	if err != nil {
		return Details{}, errs.Wrap("measure pod", podName(p.Pod), err)
	}
	d.Cgroup, d.Procs = p.Pod.CgroupParent, uint64(len(pids))
	d.CgroupDetails, err = e.cgroups.Details(p.Pod.CgroupParent)
	return d, errs.Wrap("measure pod", podName(p.Pod), err)
}

// interfaces counts those of a pod's own network; none of a pod that ends
// just now.
func (e *Engine) interfaces(p *pod.Snapshot) []sys.InterfaceCounters {
	if p.Pod.Namespaces.Network != manifest.NamespacePod {
		return nil
	}
	all := e.countersOf(p)
	if p.Network != nil && len(p.Network.Attachments) > 0 {
		own := p.Network.Attachments[0].Interface
		if i := slices.IndexFunc(all, func(c sys.InterfaceCounters) bool { return c.Name == own }); i > 0 {
			first := all[i]
			copy(all[1:], all[:i])
			all[0] = first
		}
	}
	return all
}

// countersOf looks from any process of the pod's: we need not have found its
// supervisor yet.
func (e *Engine) countersOf(p *pod.Snapshot) []sys.InterfaceCounters {
	pids := []int{p.Supervisor}
	for _, a := range p.Apps {
		if a.Status.State == manifest.AppRunning {
			pids = append(pids, a.Status.PID)
		}
	}
	for _, pid := range pids {
		if pid == 0 {
			continue
		}
		if all, err := sys.NetCounters(e.netns(p.Pod.ID), pid); err == nil {
			return all
		}
	}
	return nil
}

// Accounts says what this host counts.
func (e *Engine) Accounts() sys.Accounts { return e.cgroups.Accounts() }

// forget drops what is remembered of a pod or an app.
func (e *Engine) forget(id string) {
	e.layers.forget(id)
	e.rates.forget(id)
	e.removals.forget(id)
}

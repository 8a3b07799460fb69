package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// stats counts the interfaces of the pod's own network, loopback excepted.
func (s *Supervisor) stats(context.Context, *call, struct{}) (reply, error) {
	var r wire.StatsResult
	if s.pod.Namespaces.Network == manifest.NamespacePod {
		data, err := os.ReadFile("/proc/self/net/dev")
		if err != nil {
			return reply{}, errs.Wrap("read interface counters", "", err)
		}
		for _, c := range sys.ParseNetDev(string(data)) {
			r.Network = append(r.Network, wire.InterfaceStats(c))
		}
	}
	return reply{result: r}, nil
}

// dial connects to a port inside the pod's network namespace, which is ours.
func (s *Supervisor) dial(ctx context.Context, _ *call, p wire.DialParams) (reply, error) {
	if p.Port == 0 {
		return reply{}, errs.New("connect to port", errs.Invalid, "0", errors.New("is no port"))
	}
	f, err := sys.DialLoopback(ctx, p.Port)
	if err != nil {
		return reply{}, err
	}
	return reply{files: []*os.File{f}}, nil
}

// resizeTTY sets the size of a terminal, of an app or of a command in it.
func (s *Supervisor) resizeTTY(_ context.Context, _ *call, p wire.ResizeParams) (reply, error) {
	const op = "resize terminal"
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.find(op, p.ID)
	if err != nil {
		return reply{}, err
	}
	terminal := a.terminal
	if p.Exec != "" {
		e := a.execs[p.Exec]
		if e == nil {
			return reply{}, errs.New(op, errs.NotFound, p.ID, errors.New("no such command runs in the app"))
		}
		terminal = e.terminal
	}
	if terminal == nil {
		return reply{}, errs.New(op, errs.Precondition, p.ID, errors.New("it has no terminal, or does not run"))
	}
	return reply{}, errs.Wrap(op, p.ID, sys.ResizeTerminal(terminal, p.Rows, p.Cols))
}

// updateApp changes the limits of a running app; what is zero stays. A start
// that is under way has read its limits: it is waited for.
func (s *Supervisor) updateApp(ctx context.Context, _ *call, p wire.UpdateParams) (reply, error) {
	const op = "update app"
	if err := s.started(ctx, op, p.ID); err != nil {
		return reply{}, err
	}
	a, _, err := s.running(op, p.ID)
	if err != nil {
		return reply{}, err
	}
	resources := linuxResources(p.Resources)
	if len(resources) == 0 {
		return reply{}, nil
	}
	data, err := json.Marshal(resources)
	if err != nil {
		return reply{}, errs.Wrap(op, p.ID, err)
	}
	path := s.runtime.path(".resources")
	defer remove(path)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return reply{}, errs.Wrap(op, p.ID, err)
	}
	// Detached: half of an update would be neither the old limits nor the new.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	err = s.runtime.invoke(ctx, command{args: []string{"update", "--resources", path, a.id}})
	return reply{}, errs.Wrap(op, p.ID, err)
}

// started waits for the end of a start that is under way.
func (s *Supervisor) started(ctx context.Context, op, id string) error {
	s.mu.Lock()
	a, err := s.find(op, id)
	if err != nil || a.start == nil {
		s.mu.Unlock()
		return err
	}
	done := a.start.done
	s.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errs.Wrap(op, id, ctx.Err())
	}
}

// linuxResources gives r as OCI's LinuxResources (runtime-spec,
// config-linux.md); what is not set is left out.
func linuxResources(r manifest.Resources) map[string]any {
	cpu, memory, all := map[string]any{}, map[string]any{}, map[string]any{}
	setNonZero(cpu, "shares", r.CPUShares)
	setNonZero(cpu, "quota", r.CPUQuota)
	setNonZero(cpu, "period", r.CPUPeriod)
	setNonZero(cpu, "cpus", r.CPUSetCPUs)
	setNonZero(cpu, "mems", r.CPUSetMems)
	setNonZero(memory, "limit", r.MemoryLimit)
	setNonZero(memory, "swap", r.SwapLimit)
	if len(cpu) > 0 {
		all["cpu"] = cpu
	}
	if len(memory) > 0 {
		all["memory"] = memory
	}
	if r.PidsLimit != 0 {
		all["pids"] = map[string]int64{"limit": r.PidsLimit}
	}
	if len(r.Unified) > 0 {
		all["unified"] = r.Unified
	}
	var pages []map[string]any
	for size, limit := range r.HugePages {
		pages = append(pages, map[string]any{"pageSize": size, "limit": limit})
	}
	if len(pages) > 0 {
		all["hugepageLimits"] = pages
	}
	return all
}

func setNonZero[T comparable](m map[string]any, key string, value T) {
	var zero T
	if value != zero {
		m[key] = value
	}
}

package supervisor

import (
	"context"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

const (
	// maxGrace bounds a grace period: longer ones are as good as endless.
	maxGrace = 365 * 24 * time.Hour
	// shutdownTime bounds Shutdown: what then is left sits in the kernel.
	shutdownTime = 20 * time.Second
)

// stopping is a stop under way. It goes on without its caller.
type stopping struct {
	deadline time.Time
	signal   syscall.Signal // the last one sent
	timer    *time.Timer    // kills at deadline
}

// stopApp ends an app. One that was never started stays as it is; one that
// has ended is fine.
func (s *Supervisor) stopApp(ctx context.Context, _ *call, p wire.StopParams) (reply, error) {
	const op = "stop app"
	if err := checkSignal(op, p.ID, p.Signal); err != nil {
		return reply{}, err
	}
	grace := max(0, min(time.Duration(min(p.GraceMS, maxGrace.Milliseconds()))*time.Millisecond, maxGrace))
	s.mu.Lock()
	a, err := s.find(op, p.ID)
	if err != nil || a.start == nil {
		defer s.mu.Unlock()
		if err != nil {
			return reply{}, err
		}
		return reply{result: a.status}, nil
	}
	a.start.cancel() // of no effect once it runs
	s.requestStop(a, syscall.Signal(p.Signal), time.Now().Add(grace))
	s.mu.Unlock()
	select {
	case <-a.ended:
	case <-ctx.Done():
		return reply{}, errs.Wrap(op, p.ID, ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return reply{result: a.status}, nil
}

// requestStop signals a running app and sees to it that it is killed at the
// deadline; a later call can only make that earlier. The caller holds s.mu.
func (s *Supervisor) requestStop(a *app, sig syscall.Signal, deadline time.Time) {
	if a.status.State != manifest.AppRunning {
		return
	}
	if a.stop == nil {
		a.stop = &stopping{deadline: deadline, timer: time.AfterFunc(time.Until(deadline), func() { s.kill(a) })}
	} else if deadline.Before(a.stop.deadline) {
		a.stop.deadline = deadline
		a.stop.timer.Reset(time.Until(deadline))
	}
	if a.stop.signal != sig && time.Now().Before(a.stop.deadline) {
		a.stop.signal = sig
		_ = s.reaper.signal(a.process, sig) // it may just have ended: so much the better
	}
}

// kill ends an app at once: its first process, and then, or if that is none
// of a PID namespace of its own, all the others.
func (s *Supervisor) kill(a *app) {
	_ = s.reaper.signal(a.process, syscall.SIGKILL)
	s.killAll(a)
}

// shutdown ends all apps at once, and with the answer the supervisor.
func (s *Supervisor) shutdown(ctx context.Context, c *call, _ struct{}) (reply, error) {
	s.endAll(context.WithoutCancel(ctx))
	s.endEvents()
	c.last = true
	return reply{}, nil
}

// endAll ends all apps that were started. Nothing is added or started any
// more.
func (s *Supervisor) endAll(ctx context.Context) {
	s.mu.Lock()
	s.closing = true
	apps := make([]*app, 0, len(s.apps))
	for _, a := range s.apps {
		if a.start != nil {
			a.start.cancel()
			s.requestStop(a, syscall.SIGKILL, time.Now())
			apps = append(apps, a)
		}
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, shutdownTime)
	defer cancel()
	for _, a := range apps {
		select {
		case <-a.clean:
		case <-ctx.Done():
			s.complain("shut down: %s does not end", a.id)
		}
	}
}

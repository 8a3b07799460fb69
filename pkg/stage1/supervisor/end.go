package supervisor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

const (
	// answerTime bounds how long a pod that ends with its apps waits for those
	// who still read what these said last.
	answerTime = 10 * time.Second
	// followTime bounds how long the last events may take to be sent.
	followTime = time.Second
)

// endWithApps ends the supervisor of a pod that ends with its apps, once all
// of them have. One that is merely created may still be started: it keeps the
// pod. From then on, as in a shutdown, nothing is added or started.
func (s *Supervisor) endWithApps() {
	s.mu.Lock()
	ending := s.pod.EndsAlone && !s.closing && s.allEnded()
	if ending {
		s.closing = true
	}
	s.mu.Unlock()
	if ending {
		s.end()
	}
}

// end ends the supervisor of a pod whose apps have ended, once everybody knows.
func (s *Supervisor) end() {
	if !wait(&s.calls, answerTime) {
		s.complain("somebody is left who did not take what the apps said last")
	}
	s.endEvents()
	s.finish.Do(func() { close(s.finished) })
}

// giveUp ends a pod whose launcher left before it had started all apps, as in
// a shutdown: nobody comes back to start the others, whose statuses say so.
func (s *Supervisor) giveUp() {
	s.mu.Lock()
	if s.closing { // and whoever ends it goes on
		s.mu.Unlock()
		return
	}
	s.closing = true
	var left []*app
	for _, a := range s.apps {
		if a.start == nil && !a.removing {
			a.start = &starting{done: make(chan struct{}), cancel: func() {}}
			left = append(left, a)
		}
	}
	s.mu.Unlock()
	s.complain("%v", errLaunch)
	for _, a := range left {
		a.streams.close()
		s.failStart(a, errLaunch)
	}
	s.endAll(context.Background())
	s.end()
}

var errLaunch = errs.New("launch pod", errs.Canceled, "", errors.New("whoever launched it was gone before all of its apps were started"))

// allEnded says that apps were there, and that nothing of them is left but
// their statuses. The caller holds s.mu.
func (s *Supervisor) allEnded() bool {
	for _, a := range s.apps {
		if a.status.State != manifest.AppExited {
			return false
		}
		select {
		case <-a.clean:
		default:
			return false
		}
	}
	return len(s.apps) > 0
}

// expect counts a call whose answer is to be sent before the supervisor ends
// by itself; answered ends that.
func (s *Supervisor) expect(m wire.Method) (answered func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || m == wire.Events || m == wire.Shutdown {
		return func() {}
	}
	s.calls.Add(1)
	return s.calls.Done
}

// endEvents says that no event follows, and waits until the last are sent.
func (s *Supervisor) endEvents() {
	s.mu.Lock()
	s.log.end()
	s.mu.Unlock()
	wait(&s.followers, followTime)
}

// wait waits for g, but not longer than d; then it says no.
func wait(g *sync.WaitGroup, d time.Duration) bool {
	done := make(chan struct{})
	go func() {
		g.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(d):
		return false
	}
}

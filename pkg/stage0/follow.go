package stage0

import (
	"context"
	"sync"
	"time"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// follower keeps the index true to one supervisor for as long as that lives,
// and then buries its pod.
type follower struct {
	id       string
	reap     func()        // takes the dead supervisor out of our process table
	launched func()        // lets the supervisor know that its apps are started
	done     chan struct{} // closed once the pod is buried, or given up
	err      error         // why it could not be buried; read after done

	// records serialises changes of the pod's records (lockRecords). It is
	// taken with no other lock held.
	records sync.Mutex
}

// How a follower bears with a supervisor that hangs up and lives on, and with
// a burial that doesn't work.
const (
	reconnectPause = 100 * time.Millisecond
	buryPause      = 5 * time.Second
)

// notOurs is the reap of a supervisor that is nobody's child of ours.
func notOurs() {}

// claim makes the caller the one who is to follow a pod; nil when somebody is.
// The claim ends with unclaim, or with the pod that follow follows.
func (e *Engine) claim(id string) *follower {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.followers[id] != nil {
		return nil
	}
	f := &follower{id: id, reap: notOurs, launched: func() {}, done: make(chan struct{})}
	e.followers[id] = f
	return f
}

func (e *Engine) unclaim(f *follower) {
	e.mu.Lock()
	delete(e.followers, f.id)
	e.mu.Unlock()
	close(f.done)
}

// follow starts to follow the supervisor of the pod that f claims. reap is
// called once it has died.
func (e *Engine) follow(f *follower, reap func()) {
	f.reap = reap
	e.background("follow pod "+f.id, func(ctx context.Context) error {
		defer e.unclaim(f)
		f.err = e.followToTheEnd(ctx, f)
		return f.err
	})
}

func (e *Engine) followToTheEnd(ctx context.Context, f *follower) error {
	p, err := e.Pod(f.id)
	if err != nil {
		return nil // it was removed before we came to it
	}
	cursor, err := e.openCursor(p.Pod)
	if err != nil {
		return err
	}
	defer cursor.close()
	for ctx.Err() == nil {
		leave := e.attendPod(f.id)
		err := e.adopt(ctx, f.id)
		if err == nil {
			err = e.client(f.id).Events(ctx, cursor.seq, func(ev wire.Event) {
				switch {
				case ev.Kind == wire.EventReset:
					cursor.set(e.resync(ctx, f.id, ev.Seq))
				case ev.Seq > cursor.seq: // else resync told it
					e.apply(f.id, ev)
					cursor.set(ev.Seq)
				}
			})
		}
		leave()
		if ctx.Err() != nil {
			return nil
		}
		gone, buryErr := e.buried(ctx, f)
		if gone {
			return buryErr
		}
		e.Warn(err, "follow the supervisor of pod "+f.id+", which lives")
		select {
		case <-ctx.Done():
		case <-time.After(reconnectPause):
		}
	}
	return nil
}

// attendPod has a person's pod attended to.
func (e *Engine) attendPod(id string) (leave func()) {
	if p, err := e.Pod(id); err == nil && p.Pod.Creator == manifest.CreatorCLI {
		return e.attend(p)
	}
	return func() {}
}

// following gives who follows the pod; nil when nobody does.
func (e *Engine) following(id string) *follower {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.followers[id]
}

// apply brings one event of a supervisor into the index, and tells it on.
func (e *Engine) apply(id string, ev wire.Event) {
	kinds := map[wire.EventKind]EventKind{
		wire.EventAdded: Created, wire.EventStarted: Started, wire.EventExited: Stopped, wire.EventRemoved: Removed,
	}
	kind, tells := kinds[ev.Kind]
	if kind == Created {
		_ = e.learn(id, ev.App) // one that can't be read was removed meanwhile, or is the next adoption's
	}
	if s := e.setStatus(id, ev.App, ev.Status); s != nil && tells {
		e.events.publish(kind, ev.App, s)
		if kind == Stopped {
			e.tellEnded(s, ev.App)
		}
	}
	if kind == Removed {
		e.removals.told(ev.App)
		e.unlistForeign(id, ev.App)
	}
}

// learn lists an app that another process put into the pod.
func (e *Engine) learn(podID, app string) error {
	p, err := e.Pod(podID)
	if err != nil {
		return err
	}
	if _, known := p.App(app); known {
		return nil
	}
	a, err := pod.LoadApp(e.pods.Dir(pod.PhaseRun, podID), app)
	if err != nil {
		return err
	}
	e.index.Update(podID, func(old *pod.Snapshot) *pod.Snapshot {
		if _, known := old.App(app); known {
			return nil
		}
		s := *old
		s.Apps = append(append([]pod.App(nil), old.Apps...), a)
		pod.SortApps(s.Apps)
		return &s
	})
	return nil
}

// unlistForeign forgets an app that may have been removed by another process:
// kubelet's are removed by the server alone, which does so itself.
func (e *Engine) unlistForeign(podID, app string) {
	if p, err := e.Pod(podID); err == nil && p.Pod.Creator == manifest.CreatorCLI {
		e.unlist(podID, app)
	}
}

// resync tells how the apps stand of a supervisor that has forgotten its
// events before first, be it news or not, and gives the number of the last one
// that this takes in. When it doesn't answer, what it still knows is told.
func (e *Engine) resync(ctx context.Context, id string, first uint64) (seq uint64) {
	p, err := e.Pod(id)
	if err != nil {
		return first - 1
	}
	st, err := e.client(id).Status(ctx)
	if err != nil {
		e.Warn(err, "catch up with pod "+id)
		return first - 1
	}
	kinds := map[manifest.AppState]EventKind{manifest.AppRunning: Started, manifest.AppExited: Stopped}
	for _, a := range p.Apps {
		s := e.setStatus(id, a.ID, st.Apps[a.ID])
		kind, tells := kinds[st.Apps[a.ID].State]
		if s == nil || !tells {
			continue
		}
		e.events.publish(kind, a.ID, s)
		if kind == Stopped {
			e.tellEnded(s, a.ID)
		}
	}
	return st.Seq
}

// catchUp asks a supervisor how things stand, ahead of its events.
func (e *Engine) catchUp(ctx context.Context, id string) error {
	st, err := e.client(id).Status(ctx)
	if err != nil {
		return err
	}
	for app, status := range st.Apps {
		e.setStatus(id, app, status)
	}
	return nil
}

// setStatus brings an app's status into the index, unless it is older than
// what stands there, and gives the pod as it then is; nil when unknown.
func (e *Engine) setStatus(podID, app string, status manifest.Status) *pod.Snapshot {
	var now *pod.Snapshot
	e.index.Update(podID, func(old *pod.Snapshot) *pod.Snapshot {
		now = old
		for i, a := range old.Apps {
			if a.ID != app || !advances(a.Status, status) {
				continue
			}
			s := *old
			s.Apps = append([]pod.App(nil), old.Apps...)
			s.Apps[i].Status = status
			now = &s
			return now
		}
		return nil
	})
	return now
}

// advances reports whether an app can go from one status to the other: an
// app's life has one direction.
func advances(from, to manifest.Status) bool {
	order := map[manifest.AppState]int{
		"": 0, manifest.AppCreated: 1, manifest.AppUnknown: 2, manifest.AppRunning: 3, manifest.AppExited: 4,
	}
	return order[to.State] > order[from.State]
}

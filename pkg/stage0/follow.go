package stage0

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// follower keeps the index true to one supervisor for as long as that lives,
// and then buries its pod.
type follower struct {
	id   string
	reap func()        // takes the dead supervisor out of our process table; may be nil
	done chan struct{} // closed once the pod is buried, or given up
	err  error         // why it could not be buried; read after done

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

// follow starts to follow a pod's supervisor. reap, when not nil, is called
// once it has died: it is then our child.
func (e *Engine) follow(id string, reap func()) {
	f := &follower{id: id, reap: reap, done: make(chan struct{})}
	e.mu.Lock()
	e.followers[id] = f
	e.mu.Unlock()
	e.background("follow pod "+id, func(ctx context.Context) error {
		defer func() {
			e.mu.Lock()
			delete(e.followers, id)
			e.mu.Unlock()
			close(f.done)
		}()
		f.err = e.followToTheEnd(ctx, f)
		return f.err
	})
}

func (e *Engine) followToTheEnd(ctx context.Context, f *follower) error {
	cursor, err := openCursor(string(e.pods.RunDir(f.id)))
	if err != nil {
		return err
	}
	defer cursor.close()
	for ctx.Err() == nil {
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

// buried buries the pod of a supervisor that hung up. gone says that it did
// die, whether or not the burial worked in full.
func (e *Engine) buried(ctx context.Context, f *follower) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verbTimeout)
	defer cancel()
	if !e.waitUnlocked(ctx, f.id, time.Second) {
		return false, nil
	}
	if f.reap != nil {
		f.reap()
	}
	return true, e.buryAndTell(ctx, f.id)
}

// buryAndTell buries a pod, and lets the index and the subscribers know.
func (e *Engine) buryAndTell(ctx context.Context, id string) error {
	_, err := e.bury(ctx, id, e.tellEnd)
	return err
}

// tellEnd lets the index and the subscribers know how a pod ended. The latter
// are told once only: not again after a restart of ours, or a burial that had
// to be repeated.
func (e *Engine) tellEnd(buried *pod.Snapshot) error {
	id := buried.Pod.ID
	var ended []string
	now := e.index.Update(id, func(old *pod.Snapshot) *pod.Snapshot {
		s := *old
		s.State, s.Supervisor, s.Namespaces, s.Network = pod.Exited, 0, nil, buried.Network
		s.Apps = append([]pod.App(nil), old.Apps...)
		for i, a := range s.Apps {
			if b, ok := buried.App(a.ID); ok && advances(a.Status, b.Status) {
				s.Apps[i].Status = b.Status
				ended = append(ended, a.ID)
			}
		}
		return &s
	})
	if now == nil { // removed meanwhile
		return nil
	}
	for _, app := range ended {
		e.events.publish(Stopped, app, now)
		e.tellEnded(now, app)
	}
	run := string(e.pods.RunDir(id))
	if err := os.MkdirAll(run, 0o711); err != nil { // gone with a reboot
		return err
	}
	cursor, err := openCursor(run)
	if err != nil {
		return err
	}
	defer cursor.close()
	if cursor.seq != allTold {
		e.events.publish(Stopped, "", now)
		cursor.set(allTold)
	}
	return nil
}

// waitUnlocked waits until nobody holds the pod's lock, or the pod is gone.
func (e *Engine) waitUnlocked(ctx context.Context, id string, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// The lock falls a moment after the connection: the kernel closes a dead
	// process's descriptors one by one.
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 50*time.Millisecond) {
		_, state, err := e.pods.State(id)
		if err != nil || state == pod.Exited {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
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
	if s := e.setStatus(id, ev.App, ev.Status); s != nil && tells {
		e.events.publish(kind, ev.App, s)
		if kind == Stopped {
			e.tellEnded(s, ev.App)
		}
	}
	if kind == Removed {
		e.removals.told(ev.App)
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

// cursor remembers across our own death which events of a supervisor were
// told on. It is a hint of 8 bytes: losing it tells some events twice, as does
// dying between telling and remembering. None is ever lost for it.
type cursor struct {
	file *os.File
	seq  uint64
}

// allTold is the cursor of a pod whose end was told.
const allTold = math.MaxUint64

func openCursor(run string) (*cursor, error) {
	f, err := os.OpenFile(filepath.Join(run, "events.seen"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errs.Wrap("open event cursor", run, err)
	}
	var b [8]byte
	if n, _ := f.ReadAt(b[:], 0); n < len(b) {
		return &cursor{file: f}, nil
	}
	return &cursor{file: f, seq: binary.BigEndian.Uint64(b[:])}, nil
}

func (c *cursor) set(seq uint64) {
	c.seq = seq
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], seq)
	_, _ = c.file.WriteAt(b[:], 0)
}

func (c *cursor) close() { _ = c.file.Close() }

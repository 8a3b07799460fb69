package stage0

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
)

// LayerUsage is what an app's writable layer took up at one instant.
type LayerUsage struct {
	Time          time.Time
	Bytes, Inodes uint64
	Filesystem    sys.Filesystem // that it lies on
}

const (
	// layerAge is how old the size of a writable layer may grow before it is
	// measured again: kubelet asks about every app every 10 s.
	layerAge = 10 * time.Second
	// layerShare is the share of time, one in so many, that the walks through
	// one layer may take.
	layerShare = 10
	// layerPatience is how long a caller waits for sizes that are due. After
	// that it is told what is known.
	layerPatience = 100 * time.Millisecond
)

// layers remembers the sizes of writable layers, which are measured in the
// background: a layer can hold millions of files.
type layers struct {
	walks chan struct{} // holds one for each walk under way

	mu    sync.Mutex
	known map[string]*layerRecord // by app id
}

type layerRecord struct {
	usage  *LayerUsage   // nil until it was measured
	next   time.Time     // when it is due
	walked chan struct{} // closed by the end of the walk under way; nil without one
}

func newLayers() *layers {
	return &layers{walks: make(chan struct{}, runtime.NumCPU()), known: map[string]*layerRecord{}}
}

func (l *layers) usage(app string) *LayerUsage {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known := l.known[app]; known != nil {
		return known.usage
	}
	return nil
}

func (l *layers) forget(app string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known, app)
}

// begin gives the layer if a walk through it is to be made now, and otherwise
// what the end of the one under way closes; nil when none is due.
func (l *layers) begin(app string) (due *layerRecord, walked <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.known[app]
	if known == nil {
		known = &layerRecord{}
		l.known[app] = known
	}
	switch {
	case known.walked != nil:
		return nil, known.walked
	case time.Now().Before(known.next):
		return nil, nil
	}
	known.walked = make(chan struct{})
	return known, known.walked
}

// end keeps what a walk found; nil: it did not work.
func (l *layers) end(walked *layerRecord, took time.Duration, found *LayerUsage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if found != nil {
		walked.usage = found
	}
	walked.next = time.Now().Add(max(layerAge, layerShare*took))
	close(walked.walked)
	walked.walked = nil
}

// MeasureLayers has the writable layers of apps measured whose sizes are due,
// and waits a moment for them: no longer than ctx, however many there are.
func (e *Engine) MeasureLayers(ctx context.Context, apps []string) {
	ctx, cancel := context.WithTimeout(ctx, layerPatience)
	defer cancel()
	var waiting []<-chan struct{}
	for _, app := range apps {
		if walked := e.measureLayer(app); walked != nil {
			waiting = append(waiting, walked)
		}
	}
	for _, walked := range waiting {
		select {
		case <-walked:
		case <-ctx.Done():
			return
		}
	}
}

// measureLayer starts a walk if one is due; see layers.begin.
func (e *Engine) measureLayer(app string) (walked <-chan struct{}) {
	due, walked := e.layers.begin(app)
	if due == nil {
		return walked
	}
	e.background("measure app "+app, func(ctx context.Context) error {
		var took time.Duration
		var found *LayerUsage
		defer func() { e.layers.end(due, took, found) }()
		select {
		case e.layers.walks <- struct{}{}:
			defer func() { <-e.layers.walks }()
		case <-ctx.Done():
			return nil
		}
		begun := time.Now()
		u, err := e.walkLayer(ctx, app)
		took = time.Since(begun)
		switch {
		case err == nil:
			found = &u
		case errors.Is(err, errs.NotFound): // it is just going
			e.layers.forget(app)
		default:
			return err
		}
		return nil
	})
	return walked
}

func (e *Engine) walkLayer(ctx context.Context, app string) (LayerUsage, error) {
	p, _, err := e.App(app)
	if err != nil {
		return LayerUsage{}, err
	}
	phase, _, err := e.pods.State(p.Pod.ID)
	if err != nil {
		return LayerUsage{}, err
	}
	upper := e.pods.Dir(phase, p.Pod.ID).App(app).Upper()
	u := LayerUsage{Time: time.Now()}
	if u.Filesystem, err = sys.FilesystemOf(upper); err != nil {
		return LayerUsage{}, err
	}
	u.Bytes, u.Inodes, err = DirUsage(ctx, upper)
	return u, err
}

// WritableUsage is what the writable layers of all apps take up together, as
// far as it is known: one that was not measured yet counts for nothing.
func (e *Engine) WritableUsage(ctx context.Context) (bytes, inodes uint64) {
	var apps []string
	for _, p := range e.index.All() {
		for _, a := range p.Apps {
			apps = append(apps, a.ID)
		}
	}
	e.MeasureLayers(ctx, apps)
	for _, app := range apps {
		if u := e.layers.usage(app); u != nil {
			bytes, inodes = bytes+u.Bytes, inodes+u.Inodes
		}
	}
	return bytes, inodes
}

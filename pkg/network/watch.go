package network

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// debounce gathers the events of one change.
	debounce = 100 * time.Millisecond
	// lookAgain is when to read anew after a file was found being written.
	lookAgain = 500 * time.Millisecond
	// stale is the age of a reading at which Ready asks for another one, in
	// case events were lost or none can be had.
	stale = 10 * time.Second
)

// configs is where the configuration in force comes from.
type configs struct {
	opts    Options
	current atomic.Pointer[config]
	looked  atomic.Int64 // when Ready last asked for a reading, ns since the Unix epoch

	mu      sync.Mutex // one load at a time; guards the next two
	podCIDR []string
	chosen  string // range of the built-in network, once picked

	watcher *fsnotify.Watcher // nil: there is no inotify instance to be had
	wake    chan struct{}
}

// openConfigs has read nothing of the configuration directory yet.
func openConfigs(opts Options) (*configs, error) {
	c := &configs{opts: opts, wake: make(chan struct{}, 1)}
	var err error
	if c.podCIDR, err = c.readPodCIDR(); err != nil {
		return nil, err
	}
	c.watcher, _ = fsnotify.NewWatcher() // without one, Ready and Add have it read again
	return c, nil
}

func (c *configs) close() error {
	if c.watcher == nil {
		return nil
	}
	return c.watcher.Close()
}

// load reads the configuration, and puts what it finds in force. It reports
// false when a file is just being written, so that it must look again soon.
func (c *configs) load() (settled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.current.Load()
	next, settled := readConfDir(c.opts.ConfDir, time.Now())
	if !settled && last != nil && last.list != nil {
		return false
	}
	if next.list == nil && settled && next.problem == "" {
		c.addBuiltin(next)
	}
	if !next.equal(last) {
		c.current.Store(next)
	}
	return settled
}

// inForce gives the configuration that new pods get.
func (c *configs) inForce() *config {
	now := c.current.Load()
	if now.list == nil { // perhaps it came this instant
		c.load()
		now = c.current.Load()
	}
	return now
}

// watched maps a directory to what lay there when its watch was set: the
// configuration directory, and all above it, since each of them may be made,
// removed or renamed.
type watched map[string]os.FileInfo

// watch reads the configuration again whenever it may have changed.
func (c *configs) watch(ctx context.Context, dirs watched, settled bool) {
	var events chan fsnotify.Event
	var lost chan error
	if c.watcher != nil {
		events, lost = c.watcher.Events, c.watcher.Errors
	}
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	if settled {
		timer.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-events:
			if c.concerns(ev.Name) {
				timer.Reset(debounce)
			}
		case <-lost: //nolint:errcheck // a queue that ran over: what was missed is looked up
			timer.Reset(debounce)
		case <-c.wake:
			timer.Reset(0)
		case <-timer.C:
			dirs = c.arm(dirs)
			if !c.load() {
				timer.Reset(lookAgain)
			}
		}
	}
}

// concerns reports whether a change at path may change the configuration:
// it is inside of the directory, is the directory, or is one above it.
func (c *configs) concerns(path string) bool {
	dir := c.opts.ConfDir
	return strings.HasPrefix(path, dir+"/") || path == dir || strings.HasPrefix(dir, strings.TrimSuffix(path, "/")+"/")
}

// arm sets the watches that are missing. It comes before reading, so that no
// change falls in between.
func (c *configs) arm(old watched) watched {
	if c.watcher == nil {
		return nil
	}
	now := watched{}
	for dir := c.opts.ConfDir; ; dir = filepath.Dir(dir) {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			if was, ok := old[dir]; !ok || !os.SameFile(was, fi) {
				_ = c.watcher.Remove(dir) // a watch of what lay there before
				if c.watcher.Add(dir) != nil {
					break // no watches left; Ready and Add look by themselves
				}
			}
			now[dir] = fi
		}
		if dir == "/" {
			break
		}
	}
	return now
}

// poke makes the watcher read again, without waiting for it.
func (c *configs) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// pokeIfStale has it read again when that is long ago.
func (c *configs) pokeIfStale() {
	now := time.Now().UnixNano()
	last := c.looked.Load()
	if now-last > int64(stale) && c.looked.CompareAndSwap(last, now) {
		c.poke()
	}
}

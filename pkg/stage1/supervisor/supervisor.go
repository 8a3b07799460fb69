// Package supervisor is the supervisor's side of the stage1 contract: it owns
// a pod's namespaces, starts its apps through an OCI runtime, takes in their
// output and their ends, and answers on the pod's socket. docs/stage1-protocol.md
// tells what each verb promises.
//
// The code by file: launch.go (birth and commitment), namespaces.go and
// sysctl.go (what the pod has to itself), server.go (connections and verbs),
// app.go, start.go, stop.go, end.go (an app's life, and the pod's end), stage.go (its mounts), runtime.go
// and console.go (the OCI runtime), reaper.go, exec.go, attach.go, hub.go,
// inlet.go, streams.go, crilog.go (standard streams), events.go.
package supervisor

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// Supervisor is that of one pod; a process has one.
//
// Lock order: mu, then reaper.mu. Neither is held over anything that can
// wait; the locks of streams, hub and log are taken with none held.
type Supervisor struct {
	dir     manifest.Dir
	run     manifest.RunDir
	pod     *podConfig
	host    *os.File  // the host's mount namespace
	users   *os.File  // the pod's user namespace; nil: the host's
	root    sys.Owner // the host's ids of the pod's root
	runtime *ociRuntime
	reaper  *reaper
	cgroups func() (sys.Cgroups, error) // told apart when the first app starts
	pool    *buffers
	trim    *trimmer

	listener  *sys.Listener
	hello     wire.HelloResult
	followers sync.WaitGroup // of events
	calls     sync.WaitGroup // whose answers an end by itself waits for; added to while not closing
	finished  chan struct{}  // closed once the supervisor is to end
	finish    sync.Once

	mu      sync.Mutex
	apps    map[string]*app
	log     eventLog
	closing bool // it is ending: nothing starts any more
}

// complain tells administrators: stderr is the pod's log/stage1.log. Nothing
// depends on anyone reading it.
func (s *Supervisor) complain(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().UTC().Format(time.RFC3339Nano), fmt.Sprintf(format, args...))
}

// event records that something happened to a. The caller holds s.mu.
func (s *Supervisor) event(kind wire.EventKind, a *app) {
	err := s.log.add(wire.Event{Time: time.Now().UnixNano(), Kind: kind, App: a.id, Status: a.status})
	if err != nil {
		s.complain("event %s of %s: %v", kind, a.id, err)
	}
}

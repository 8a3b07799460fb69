package pod

import (
	"slices"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Snapshot is a pod as it was at one instant. It is immutable: a change makes
// a new one, so readers hold no lock.
type Snapshot struct {
	Pod     *manifest.Pod
	Stage1  *manifest.Stage1
	Network *manifest.Network // nil on the host's network
	State   State
	// Supervisor is the process id of the pod's supervisor; 0 when none lives.
	Supervisor int
	// Namespaces gives, by OCI namespace type, the path of each that the pod
	// has to itself.
	Namespaces map[string]string
	Apps       []App // in the order of their creation
}

// App is an app as it was at one instant.
type App struct {
	*manifest.App
	Status manifest.Status
}

// Ready says that apps can be added to the pod.
func (s *Snapshot) Ready() bool { return s.State == Running }

// App gives the app of that id.
func (s *Snapshot) App(id string) (App, bool) {
	i := slices.IndexFunc(s.Apps, func(a App) bool { return a.ID == id })
	if i < 0 {
		return App{}, false
	}
	return s.Apps[i], true
}

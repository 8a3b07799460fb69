package pod

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Loaded is a pod as its directory tells it.
type Loaded struct {
	*Snapshot
	Phase Phase
	// Boot is the id of the boot that made the pod.
	Boot string
	// SweepAt is when a marked pod may be swept, in ns since the Unix epoch; 0:
	// at once.
	SweepAt int64
	// Damaged holds what could not be read of it, by app id ("" for the
	// network); it is left out of the Snapshot.
	Damaged map[string]error
}

// Load reads a pod from disk. A pod whose own records can't be read is an
// error (errs.Corrupt); one with unreadable parts is loaded without them.
func (s *Store) Load(id string) (*Loaded, error) {
	phase, state, err := s.State(id)
	if err != nil {
		return nil, err
	}
	dir := s.Dir(phase, id)
	l := &Loaded{
		Phase:    phase,
		Snapshot: &Snapshot{Pod: &manifest.Pod{}, Stage1: &manifest.Stage1{}, State: state},
		Damaged:  map[string]error{},
	}
	if l.Boot, err = atomicfile.ReadRecord(dir.Pod(), manifest.KindPod, l.Pod); err != nil {
		return nil, corrupt(err)
	}
	if l.Pod.ID != id {
		return nil, errs.New("load pod", errs.Corrupt, id, fmt.Errorf("pod.json is of pod %.80q", l.Pod.ID))
	}
	if _, err := atomicfile.ReadRecord(dir.Stage1(), manifest.KindStage1, l.Stage1); err != nil {
		return nil, corrupt(err)
	}
	if phase == PhaseGarbage {
		l.SweepAt = sweepTime(dir)
	}
	l.loadNetwork(dir)
	l.loadApps(dir)
	return l, nil
}

// corrupt turns "a record is missing" into what it means for a pod. The cause
// is told in words alone: errors.Is must not find in it that the pod is gone.
func corrupt(err error) error {
	if errors.Is(err, errs.NotFound) {
		return errs.New("load pod", errs.Corrupt, "", errors.New(err.Error()))
	}
	return err
}

func (l *Loaded) loadNetwork(dir manifest.Dir) {
	var n manifest.Network
	_, err := atomicfile.ReadRecord(dir.Network(), manifest.KindNetwork, &n)
	switch {
	case err == nil:
		l.Network = &n
	case !errors.Is(err, errs.NotFound):
		l.Damaged[""] = err
	}
}

func (l *Loaded) loadApps(dir manifest.Dir) {
	entries, err := os.ReadDir(dir.Apps())
	if err != nil {
		l.Damaged[""] = errs.Wrap("load apps", string(dir), err)
		return
	}
	for _, e := range entries {
		if atomicfile.IsTemp(e.Name()) {
			continue
		}
		a, err := LoadApp(dir, e.Name())
		if err != nil {
			l.Damaged[e.Name()] = err
			continue
		}
		l.Apps = append(l.Apps, a)
	}
	SortApps(l.Apps)
}

// LoadApp reads an app of the pod that lies at dir. One that isn't there, or
// whose record can't be read, is errs.Corrupt.
func LoadApp(dir manifest.Dir, id string) (App, error) {
	if err := CheckID(id); err != nil {
		return App{}, err
	}
	a := App{App: &manifest.App{}}
	if _, err := atomicfile.ReadRecord(dir.App(id).App(), manifest.KindApp, a.App); err != nil {
		return App{}, corrupt(err)
	}
	if a.ID != id {
		return App{}, errs.New("load app", errs.Corrupt, id, fmt.Errorf("app.json is of app %.80q", a.ID))
	}
	_, err := atomicfile.ReadRecord(dir.App(id).Status(), manifest.KindStatus, &a.Status)
	switch {
	case errors.Is(err, errs.NotFound):
		a.Status = manifest.Status{Version: manifest.Version, State: manifest.AppCreated}
	case err != nil: // torn: the supervisor, or the sweep of a dead pod, says it anew
		a.Status = manifest.Status{Version: manifest.Version, State: manifest.AppUnknown, Message: err.Error()}
	}
	return a, nil
}

// SortApps puts apps in the order of their creation.
func SortApps(apps []App) {
	slices.SortFunc(apps, func(a, b App) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
}

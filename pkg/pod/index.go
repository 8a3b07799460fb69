package pod

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/stagelet/stagelet/internal/errs"
)

// Index holds the latest snapshot of every pod. Readers never wait for a
// writer that waits for a disk, a process or a network: nothing is done under
// its lock but to exchange pointers.
type Index struct {
	mu   sync.RWMutex
	pods map[string]*Snapshot // by pod id
	apps map[string]string    // app id to pod id
}

// NewIndex gives an empty index.
func NewIndex() *Index {
	return &Index{pods: map[string]*Snapshot{}, apps: map[string]string{}}
}

// All gives the pods in the order of their creation.
func (x *Index) All() []*Snapshot {
	x.mu.RLock()
	all := slices.AppendSeq(make([]*Snapshot, 0, len(x.pods)), maps.Values(x.pods))
	x.mu.RUnlock()
	slices.SortFunc(all, func(a, b *Snapshot) int {
		return cmp.Or(cmp.Compare(a.Pod.CreatedAt, b.Pod.CreatedAt), cmp.Compare(a.Pod.ID, b.Pod.ID))
	})
	return all
}

// Put adds a pod, or replaces what is known of it.
func (x *Index) Put(s *Snapshot) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.forget(s.Pod.ID)
	x.learn(s)
}

// Update replaces a pod's snapshot by what change makes of it, in one step,
// and gives the new one; nil when the pod is unknown. A change that gives nil
// leaves all as it is.
func (x *Index) Update(id string, change func(*Snapshot) *Snapshot) *Snapshot {
	x.mu.Lock()
	defer x.mu.Unlock()
	old, known := x.pods[id]
	if !known {
		return nil
	}
	s := change(old)
	if s == nil {
		return nil
	}
	x.forget(id)
	x.learn(s)
	return s
}

// Delete forgets a pod and gives what was last known of it; nil when unknown.
func (x *Index) Delete(id string) *Snapshot {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.pods[id]
	x.forget(id)
	return s
}

// Pod finds a pod by its id or a unique prefix of it. None is errs.NotFound,
// several are errs.Invalid with their ids.
func (x *Index) Pod(id string) (*Snapshot, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if s, exact := x.pods[id]; exact {
		return s, nil
	}
	full, err := resolve("pod", id, maps.Keys(x.pods))
	if err != nil {
		return nil, err
	}
	return x.pods[full], nil
}

// App finds an app like Pod finds a pod, with the pod it lives in.
func (x *Index) App(id string) (*Snapshot, App, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	podID, exact := x.apps[id]
	if !exact {
		full, err := resolve("app", id, maps.Keys(x.apps))
		if err != nil {
			return nil, App{}, err
		}
		id, podID = full, x.apps[full]
	}
	s := x.pods[podID]
	a, _ := s.App(id)
	return s, a, nil
}

// maxCandidates bounds how many ids an ambiguous prefix's error names.
const maxCandidates = 8

func resolve(what, prefix string, ids func(func(string) bool)) (string, error) {
	var found []string
	for id := range ids {
		if prefix != "" && strings.HasPrefix(id, prefix) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 0:
		return "", errs.New("find "+what, errs.NotFound, fmt.Sprintf("%.80q", prefix), errors.New("no such "+what))
	case 1:
		return found[0], nil
	}
	slices.Sort(found)
	more := ""
	if len(found) > maxCandidates {
		more = fmt.Sprintf(" and %d more", len(found)-maxCandidates)
		found = found[:maxCandidates]
	}
	return "", errs.New("find "+what, errs.Invalid, fmt.Sprintf("%.80q", prefix),
		fmt.Errorf("the prefix is of several: %s%s", strings.Join(found, ", "), more))
}

func (x *Index) learn(s *Snapshot) {
	x.pods[s.Pod.ID] = s
	for _, a := range s.Apps {
		x.apps[a.ID] = s.Pod.ID
	}
}

func (x *Index) forget(id string) {
	if s, known := x.pods[id]; known {
		for _, a := range s.Apps {
			delete(x.apps, a.ID)
		}
		delete(x.pods, id)
	}
}

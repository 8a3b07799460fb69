package web

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// podView is a pod as the API shows it.
type podView struct {
	ID        string           `json:"id"`
	Name      string           `json:"name"`
	Namespace string           `json:"namespace,omitempty"` // Kubernetes'
	Creator   manifest.Creator `json:"creator"`
	State     pod.State        `json:"state"`
	IPs       []string         `json:"ips"`
	Attempt   uint32           `json:"attempt"` // how many pods of the name came before
	CreatedAt time.Time        `json:"createdAt"`
	Apps      []appView        `json:"apps"`
}

// appView is an app as the API shows it.
type appView struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Image      string            `json:"image"` // as its user wrote it
	ImageID    string            `json:"imageID"`
	State      manifest.AppState `json:"state"`
	Restarts   uint32            `json:"restarts"` // how many apps of the name came before
	ExitCode   int               `json:"exitCode"`
	Reason     string            `json:"reason,omitempty"`
	StartedAt  time.Time         `json:"startedAt,omitzero"`
	FinishedAt time.Time         `json:"finishedAt,omitzero"`
	HasLog     bool              `json:"hasLog"`
	// MemoryLimit is in bytes; 0: none.
	MemoryLimit int64 `json:"memoryLimit"`
}

// usageView is what an app takes up just now.
type usageView struct {
	// NanoCores is the CPU time used per second, in ns; absent until it was
	// measured twice.
	NanoCores *uint64 `json:"nanoCores,omitempty"`
	Memory    uint64  `json:"memory"` // bytes, working set
}

// allPods gives the pods of everybody, oldest first.
func (s *server) allPods() []*pod.Snapshot {
	all := append(s.Engine.Pods(manifest.CreatorCRI), s.Engine.Pods(manifest.CreatorCLI)...)
	slices.SortFunc(all, func(a, b *pod.Snapshot) int {
		return cmp.Or(cmp.Compare(a.Pod.CreatedAt, b.Pod.CreatedAt), cmp.Compare(a.Pod.ID, b.Pod.ID))
	})
	return all
}

func podName(p *pod.Snapshot) string {
	if p.Pod.Namespace == "" {
		return p.Pod.Name
	}
	return p.Pod.Namespace + "/" + p.Pod.Name
}

func (s *server) listPods(w http.ResponseWriter, _ *http.Request) {
	views := []podView{}
	for _, p := range s.allPods() {
		views = append(views, viewPod(p))
	}
	answer(w, http.StatusOK, views)
}

func viewPod(p *pod.Snapshot) podView {
	v := podView{
		ID: p.Pod.ID, Name: p.Pod.Name, Namespace: p.Pod.Namespace, Creator: p.Pod.Creator, State: p.State,
		IPs: []string{}, Attempt: p.Pod.Attempt, CreatedAt: instant(p.Pod.CreatedAt), Apps: []appView{},
	}
	if p.Network != nil {
		v.IPs = some(p.Network.IPs)
	}
	for _, a := range p.Apps {
		v.Apps = append(v.Apps, appView{
			ID: a.ID, Name: a.Name, Image: a.Image.Name, ImageID: a.Image.ID, State: a.Status.State, Restarts: a.Attempt,
			ExitCode: a.Status.ExitCode, Reason: a.Status.Reason,
			StartedAt: instant(a.Status.StartedAt), FinishedAt: instant(a.Status.FinishedAt),
			HasLog: a.LogPath != "" && p.Pod.LogDir != "", MemoryLimit: a.Resources.MemoryLimit,
		})
	}
	return v
}

// instant is a time of a record, in ns since the Unix epoch; 0 is none.
func instant(ns int64) (t time.Time) {
	if ns != 0 {
		t = time.Unix(0, ns).UTC()
	}
	return t
}

// listUsage measures the apps that run, by their ids. Nothing is measured
// unless somebody looks.
func (s *server) listUsage(w http.ResponseWriter, _ *http.Request) {
	usage := map[string]usageView{}
	for _, p := range s.allPods() {
		for _, a := range p.Apps {
			if a.Status.State != manifest.AppRunning {
				continue
			}
			if u, err := s.Engine.AppUsage(a.ID); err == nil { // else it has just ended
				usage[a.ID] = usageView{NanoCores: u.NanoCores, Memory: u.Memory.WorkingSet}
			}
		}
	}
	answer(w, http.StatusOK, usage)
}

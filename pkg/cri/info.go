package cri

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// infoWriter writes what verbose statuses add, as JSON under the key "info".
type infoWriter struct {
	stateDir string
}

type sandboxInfo struct {
	PID        int               `json:"pid"` // of the supervisor
	State      pod.State         `json:"state"`
	Namespaces map[string]string `json:"namespaces,omitempty"`
	Pod        *manifest.Pod     `json:"pod"`
	Stage1     *manifest.Stage1  `json:"stage1,omitempty"`
	Network    *manifest.Network `json:"network,omitempty"`
}

func (w infoWriter) sandbox(p *pod.Snapshot) (map[string]string, error) {
	return infoMap(sandboxInfo{
		PID: p.Supervisor, State: p.State, Namespaces: p.Namespaces,
		Pod: p.Pod, Stage1: p.Stage1, Network: p.Network,
	})
}

type containerInfo struct {
	PID             int             `json:"pid"`
	SandboxID       string          `json:"sandboxID"`
	App             *manifest.App   `json:"app"`
	Status          manifest.Status `json:"status"`
	RuntimeSpecPath string          `json:"runtimeSpecPath,omitempty"`
	RuntimeSpec     json.RawMessage `json:"runtimeSpec,omitempty"` // OCI runtime-spec; left out when it can't be read
}

func (w infoWriter) container(p *pod.Snapshot, a pod.App) (map[string]string, error) {
	info := containerInfo{PID: a.Status.PID, SandboxID: p.Pod.ID, App: a.App, Status: a.Status}
	if w.stateDir != "" {
		dir := manifest.Dir(filepath.Join(w.stateDir, "pods", string(pod.PhaseRun), p.Pod.ID))
		info.RuntimeSpecPath = dir.App(a.ID).Spec()
		if spec, err := os.ReadFile(info.RuntimeSpecPath); err == nil && json.Valid(spec) {
			info.RuntimeSpec = spec
		}
	}
	return infoMap(info)
}

func (w infoWriter) image(r *image.Record) (map[string]string, error) {
	return infoMap(struct {
		Record    *image.Record `json:"record"`
		ImageSpec any           `json:"imageSpec"` // OCI image-spec config
	}{r, r.Config})
}

func infoMap(info any) (map[string]string, error) {
	text, err := json.Marshal(info)
	if err != nil {
		return nil, errs.Wrap("tell status", "info", err)
	}
	return map[string]string{"info": string(text)}, nil
}

package supervisor

import (
	"strconv"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// podConfig is what a supervisor needs of manifest.Pod. Decoding JSON costs
// memory for every field that the type could have, which stays.
type podConfig struct {
	ID         string            `json:"id"`
	Hostname   string            `json:"hostname"`
	LogDir     string            `json:"logDir"`
	Scope      string            `json:"cgroupScope"`
	EndsAlone  bool              `json:"endsWithApps"`
	Sysctls    map[string]string `json:"sysctls"`
	Namespaces podNamespaces     `json:"namespaces"`

	Volumes []manifest.EmptyVolume `json:"volumes"`
}

// podNamespaces are those of manifest.Namespaces that are ours to make.
type podNamespaces struct {
	Network manifest.NamespaceMode `json:"network"`
	IPC     manifest.NamespaceMode `json:"ipc"`
	PID     manifest.NamespaceMode `json:"pid"`

	User *manifest.UserNamespace `json:"user"`
}

// stage1Config is what a supervisor needs of manifest.Stage1.
type stage1Config struct {
	Executor manifest.Executor `json:"executor"`
}

// readConfig reads the pod's records through the descriptor of its lock: its
// directory is not yet where it will lie.
func readConfig() (*podConfig, *stage1Config, error) {
	const op = "read configuration of pod"
	here := manifest.Dir("/proc/self/fd/" + strconv.Itoa(fdLock))
	var pod podConfig
	if _, err := atomicfile.ReadRecord(here.Pod(), manifest.KindPod, &pod); err != nil {
		return nil, nil, errs.Wrap(op, "", err)
	}
	var pinned stage1Config
	if _, err := atomicfile.ReadRecord(here.Stage1(), manifest.KindStage1, &pinned); err != nil {
		return nil, nil, errs.Wrap(op, pod.ID, err)
	}
	return &pod, &pinned, nil
}

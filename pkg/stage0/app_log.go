package stage0

import (
	"errors"
	"path/filepath"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
)

// The files of a pod's own log directory: one for each app, and the
// supervisor's.
const (
	logEnding     = ".log"
	supervisorLog = "stage1"
)

// AppLog gives the file of an app's log (kubelet's format), wherever its pod
// lies now; the file is there once the app was started. An app that keeps
// none is errs.Precondition.
func (e *Engine) AppLog(app string) (string, error) {
	const op = "find log"
	p, a, err := e.App(app)
	if err != nil {
		return "", err
	}
	if p.Pod.LogDir == "" || a.LogPath == "" {
		return "", errs.New(op, errs.Precondition, a.Name, errors.New("the app keeps no log"))
	}
	dir := p.Pod.LogDir
	if dir == e.pods.Dir(pod.PhaseRun, p.Pod.ID).Log() {
		phase, _, err := e.pods.State(p.Pod.ID)
		if err != nil {
			return "", errs.Wrap(op, a.Name, err)
		}
		dir = e.pods.Dir(phase, p.Pod.ID).Log()
	}
	return filepath.Join(dir, a.LogPath), nil
}

package stage0

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/pod"
)

// RemoveImage removes an image for a person, as store.Remove does, but not one
// that a prepared pod is going to be run with: errs.Precondition.
func (e *Engine) RemoveImage(ref string) error { return RemoveImage(e.Images, e.pods, ref) }

// RemoveImage is Engine.RemoveImage where there is no engine.
func RemoveImage(images *store.Store, pods *pod.Store, ref string) error {
	return images.RemoveUnless(ref, func(owner string) error {
		id, _, _ := strings.Cut(owner, store.OwnerPart)
		if phase, _, _ := pods.State(id); phase != pod.PhasePrepared {
			return nil // an app has what it needs
		}
		return errs.New("give up prepared pod", errs.Precondition, id,
			errors.New("it is prepared to run with this image: run it, or remove it with \"stagelet rm "+id+"\""))
	})
}

// OpenPods opens the pods of an engine with these directories (Options).
func OpenPods(root, run string) (*pod.Store, error) {
	return pod.Open(filepath.Join(root, "pods"), filepath.Join(run, "pods"))
}

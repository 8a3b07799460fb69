package cri

import (
	"errors"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// visible says that a pod exists for CRI: it was made through it, came to
// life, and nobody has removed it.
func visible(p *pod.Snapshot) bool {
	return p.Pod.Creator == manifest.CreatorCRI && (p.State == pod.Running || p.State == pod.Exited)
}

// findPod gives the sandbox of an id or unique prefix.
func findPod(pods podIndex, id string) (*pod.Snapshot, error) {
	if id == "" {
		return nil, invalid("pod_sandbox_id", "is empty")
	}
	p, err := pods.Pod(id)
	if err != nil {
		return nil, err
	}
	if !visible(p) {
		return nil, errs.New("find sandbox", errs.NotFound, id, nil)
	}
	return p, nil
}

// findApp gives the container of an id or unique prefix, with its sandbox.
func findApp(apps appIndex, id string) (*pod.Snapshot, pod.App, error) {
	if id == "" {
		return nil, pod.App{}, invalid("container_id", "is empty")
	}
	p, a, err := apps.App(id)
	if err != nil {
		return nil, pod.App{}, err
	}
	if !visible(p) {
		return nil, pod.App{}, errs.New("find container", errs.NotFound, id, nil)
	}
	return p, a, nil
}

// podToEnd gives the full id for a Stop or Remove, empty when there is nothing
// to do: unknown ids are fine, and pods of a person are unknown. A full id
// that the index does not have is passed on, since the engine may still hold
// remains of it.
func podToEnd(pods podIndex, id string) (string, error) {
	if id == "" {
		return "", invalid("pod_sandbox_id", "is empty")
	}
	p, err := pods.Pod(id)
	if err != nil {
		return unknownToEnd(id, err)
	}
	if p.Pod.Creator != manifest.CreatorCRI {
		return "", nil
	}
	return p.Pod.ID, nil
}

// appToEnd is podToEnd for a container.
func appToEnd(apps appIndex, id string) (string, error) {
	if id == "" {
		return "", invalid("container_id", "is empty")
	}
	p, a, err := apps.App(id)
	if err != nil {
		return unknownToEnd(id, err)
	}
	if p.Pod.Creator != manifest.CreatorCRI {
		return "", nil
	}
	return a.ID, nil
}

func unknownToEnd(id string, err error) (string, error) {
	if !errors.Is(err, errs.NotFound) {
		return "", err
	}
	if whole := pod.CheckID(id) == nil; whole {
		return id, nil
	}
	return "", nil
}

package stage0

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/outfile"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// The files of a checkpoint of an app, beside CRIU's: named as other runtimes
// name them, so that their tools read ours (checkpointctl).
const (
	specDump   = "spec.dump"
	configDump = "config.dump"
	statusDump = "status"
	rootfsDiff = "rootfs-diff.tar"
)

// checkpointed is what a checkpoint of a pod is: pod.json in its directory.
// The checkpoint of each app is in a directory named after the app's id.
type checkpointed struct {
	Version int               `json:"version"`
	Pod     *manifest.Pod     `json:"pod"`
	Flavor  string            `json:"flavor"`
	Apps    []checkpointedApp `json:"apps"`
}

type checkpointedApp struct {
	App *manifest.App `json:"app"`
	// Diff is the digest of what the app changed in its root file system.
	Diff image.Digest `json:"diff"`
}

const (
	checkpointVersion = 1
	kindCheckpoint    = "checkpoint"
)

// thawMargin is what is kept of a caller's time to clean up and let apps go on.
const thawMargin = 3 * time.Second

// CheckpointApp writes what a running app is, with its processes and what it
// changed in its root file system, to a tar archive at location, which is
// there whole or as it was before. The app is paused meanwhile, and goes on.
// What is missing here for that is errs.Precondition.
func (e *Engine) CheckpointApp(ctx context.Context, id, location string) (err error) {
	const op = "checkpoint app"
	p, a, err := e.App(id)
	if err != nil {
		return err
	}
	if !filepath.IsAbs(location) {
		return errs.New(op, errs.Invalid, a.Name, fmt.Errorf("the location %.200q is not an absolute path", location))
	}
	dir, err := e.checkpointDir()
	if err != nil {
		return errs.Wrap(op, a.Name, err)
	}
	defer func() { err = errors.Join(err, sys.RemoveTree(dir)) }()
	if _, err := e.capture(ctx, p, []pod.App{a}, dir); err != nil {
		return errs.Wrap(op, a.Name, err)
	}
	return errs.Wrap(op, a.Name, archive(ctx, filepath.Join(dir, a.ID), location))
}

// checkpoints is where checkpoints of apps are while they are being made.
func (e *Engine) checkpoints() string { return filepath.Join(e.Root, "checkpoints") }

func (e *Engine) checkpointDir() (string, error) {
	if err := os.MkdirAll(e.checkpoints(), 0o700); err != nil {
		return "", err
	}
	return os.MkdirTemp(e.checkpoints(), "app-")
}

// archive writes the tree at dir as a tar to location.
func archive(ctx context.Context, dir, location string) error {
	return outfile.Write(location, 0o600, func(w io.Writer) error { return layer.Diff(ctx, dir, w) })
}

// CheckpointPod writes apps of a pod into the empty directory dir, as they all
// were at one instant: they are paused together, and go on before it returns,
// whatever became of it. What is missing here for that is errs.Precondition.
// On an error dir is empty again.
func (e *Engine) CheckpointPod(ctx context.Context, id, dir string, apps []string) (err error) {
	const op = "checkpoint pod"
	p, err := e.Pod(id)
	if err != nil {
		return err
	}
	selected, err := selectApps(p, apps)
	if err == nil {
		err = checkEmpty(dir)
	}
	if err != nil {
		return errs.Wrap(op, podName(p.Pod), err)
	}
	captured, err := e.capture(ctx, p, selected, dir)
	if err == nil {
		record := checkpointed{Version: checkpointVersion, Pod: p.Pod, Flavor: p.Stage1.Flavor, Apps: captured}
		err = atomicfile.WriteRecord(filepath.Join(dir, "pod.json"), kindCheckpoint, record)
	}
	if err != nil {
		return errs.Wrap(op, podName(p.Pod), errors.Join(err, emptyOut(dir)))
	}
	return nil
}

// selectApps finds the apps of a pod that are to be captured together.
func selectApps(p *pod.Snapshot, ids []string) (selected []pod.App, err error) {
	if len(ids) == 0 {
		return nil, errs.New("select apps", errs.Invalid, "", errors.New("none is named"))
	}
	for _, id := range ids {
		a, ok := p.App(id)
		switch {
		case !ok:
			return nil, errs.New("select app", errs.Invalid, fmt.Sprintf("%.80q", id), errors.New("it isn't one of this pod"))
		case slices.ContainsFunc(selected, func(other pod.App) bool { return other.ID == id }):
			return nil, errs.New("select app", errs.Invalid, a.Name, errors.New("it is named twice"))
		}
		selected = append(selected, a)
	}
	return selected, nil
}

// checkEmpty wants a directory that is there and empty.
func checkEmpty(dir string) error {
	if !filepath.IsAbs(dir) {
		return errs.New("check directory", errs.Invalid, fmt.Sprintf("%.200q", dir), errors.New("it is not an absolute path"))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errs.New("check directory", errs.Invalid, "", err)
	}
	if len(entries) > 0 {
		return errs.New("check directory", errs.Invalid, dir, errors.New("it is not empty"))
	}
	return nil
}

// emptyOut removes all that is in dir.
func emptyOut(dir string) error {
	entries, err := os.ReadDir(dir)
	all := []error{err}
	for _, entry := range entries {
		all = append(all, sys.RemoveTree(filepath.Join(dir, entry.Name())))
	}
	return errors.Join(all...)
}

// capture freezes apps, writes each to a directory of its own below dir, and
// thaws them again.
func (e *Engine) capture(ctx context.Context, p *pod.Snapshot, apps []pod.App, dir string) (all []checkpointedApp, err error) {
	if err := e.canCheckpoint(ctx, p, apps); err != nil {
		return nil, err
	}
	if until, limited := ctx.Deadline(); limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until.Add(-thawMargin))
		defer cancel()
	}
	ids := make([]string, len(apps))
	for i, a := range apps {
		ids[i] = a.ID
	}
	thaw, err := e.client(p.Pod.ID).Freeze(ctx, ids)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, thaw()) }()
	for _, a := range apps {
		diff, err := e.captureApp(ctx, p, a, filepath.Join(dir, a.ID))
		if err != nil {
			return nil, errs.Wrap("capture", a.Name, err)
		}
		all = append(all, checkpointedApp{App: a.App, Diff: diff})
	}
	return all, nil
}

// canCheckpoint says what is missing for the processes of apps to be written.
func (e *Engine) canCheckpoint(ctx context.Context, p *pod.Snapshot, apps []pod.App) error {
	missing := func(format string, args ...any) error {
		return errs.New("check", errs.Precondition, podName(p.Pod), fmt.Errorf(format, args...))
	}
	for _, a := range apps {
		if !p.Ready() || a.Status.State != manifest.AppRunning {
			return errs.New("check", errs.Precondition, a.Name, errNotRunning)
		}
	}
	if p.Pod.Namespaces.User != nil {
		return missing("pods with a user namespace of their own can't be checkpointed")
	}
	if err := criuReady(ctx); err != nil {
		return err
	}
	hello, err := e.client(p.Pod.ID).Hello(ctx)
	if err == nil && !slices.Contains(hello.Features, wire.FeatureCheckpoint) {
		err = missing("its stage1 can't checkpoint; it is older than this server, or of another flavor")
	}
	return err
}

// criuReady asks CRIU whether it can work on this kernel.
func criuReady(ctx context.Context) error {
	const op = "look for CRIU"
	path, err := exec.LookPath("criu")
	if err != nil {
		return errs.New(op, errs.Precondition, "", errors.New("criu is not installed: there is no such program in PATH"))
	}
	words, err := exec.CommandContext(ctx, path, "check").CombinedOutput()
	if ctx.Err() != nil {
		return errs.Wrap(op, path, ctx.Err())
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(words)), "\n")
		return errs.New(op, errs.Precondition, "", fmt.Errorf("criu can't work on this kernel (criu check): %.400s", lines[0]))
	}
	return nil
}

// captureApp writes one frozen app to dir, which it makes.
func (e *Engine) captureApp(ctx context.Context, p *pod.Snapshot, a pod.App, dir string) (image.Digest, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	if err := e.client(p.Pod.ID).Checkpoint(ctx, wire.CheckpointParams{ID: a.ID, Dir: dir}); err != nil {
		return "", err
	}
	from := e.pods.Dir(pod.PhaseRun, p.Pod.ID).App(a.ID)
	spec, err := os.ReadFile(from.Spec())
	if err != nil {
		return "", err
	}
	config, err := json.Marshal(dumpOf(p, a))
	if err != nil {
		return "", err
	}
	status, err := json.Marshal(a.Status)
	if err != nil {
		return "", err
	}
	for name, data := range map[string][]byte{specDump: spec, configDump: config, statusDump: status} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return "", err
		}
	}
	return writeDiff(ctx, from.Upper(), filepath.Join(dir, rootfsDiff))
}

// writeDiff writes a writable layer to path, and gives its digest.
func writeDiff(ctx context.Context, upper, path string) (image.Digest, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	err = errors.Join(layer.Diff(ctx, upper, io.MultiWriter(f, sum)), f.Close())
	return image.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), err
}

// dump is config.dump, as checkpointctl and other runtimes read it.
type dump struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Image        string    `json:"rootfsImage,omitempty"`
	ImageRef     string    `json:"rootfsImageRef,omitempty"`
	ImageName    string    `json:"rootfsImageName,omitempty"`
	Runtime      string    `json:"runtime,omitempty"`
	Created      time.Time `json:"createdTime"`
	Checkpointed time.Time `json:"checkpointedTime"`
	Restored     bool      `json:"restored"`
}

func dumpOf(p *pod.Snapshot, a pod.App) dump {
	return dump{
		ID: a.ID, Name: a.Name, Image: a.Image.Name, ImageRef: a.Image.ID, ImageName: a.Image.Name,
		Runtime: filepath.Base(p.Stage1.Executor.Runtime.Path), Created: time.Unix(0, a.CreatedAt), Checkpointed: time.Now(), Restored: a.Restore,
	}
}

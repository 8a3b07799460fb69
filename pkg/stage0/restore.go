package stage0

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/internal/undo"
	"github.com/stagelet/stagelet/pkg/image/layer"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// RestorePod makes a pod of the checkpoint in the directory dir, which is only
// read. Its apps, by name, are there without having run; StartApp lets their
// processes go on. apps are what they are to be, and must agree with the
// checkpoint about what is in it: errs.Invalid where they don't. On an error
// nothing of the pod is left.
func (e *Engine) RestorePod(ctx context.Context, dir string, p manifest.Pod, apps []AppRequest) (id string, restored map[string]string, err error) {
	const op = "restore pod"
	var from checkpointed
	if !filepath.IsAbs(dir) {
		return "", nil, errs.New(op, errs.Invalid, podName(&p), fmt.Errorf("the checkpoint %.200q is not an absolute path", dir))
	}
	if _, err := atomicfile.ReadRecord(filepath.Join(dir, "pod.json"), kindCheckpoint, &from); err != nil {
		return "", nil, errs.New(op, errs.Invalid, podName(&p), err)
	}
	parts, err := matchApps(&from, apps)
	if err == nil {
		err = e.canRestore(ctx, &from, &p)
	}
	if err != nil {
		return "", nil, errs.Wrap(op, podName(&p), err)
	}
	if id, err = e.RunPod(ctx, p); err != nil {
		return "", nil, errs.Wrap(op, "", err)
	}
	restored = map[string]string{}
	for i, r := range apps {
		r.Checkpoint = &AppCheckpoint{Dir: filepath.Join(dir, parts[i].App.ID), part: parts[i]}
		if restored[r.App.Name], err = e.AddApp(ctx, id, r); err != nil {
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), undo.Timeout)
			defer cancel()
			return "", nil, errs.Wrap(op, podName(&p), errors.Join(err, e.RemovePod(back, id)))
		}
	}
	return id, restored, nil
}

// AppCheckpoint is where an app comes from that is to be restored.
type AppCheckpoint struct {
	Dir  string
	part checkpointedApp
}

// matchApps finds the checkpoint of each app, which must be exactly those of
// the pod.
func matchApps(from *checkpointed, apps []AppRequest) ([]checkpointedApp, error) {
	const op = "match apps"
	saved := map[string]checkpointedApp{}
	for _, a := range from.Apps {
		if a.App == nil || pod.CheckID(a.App.ID) != nil {
			return nil, errs.New(op, errs.Invalid, "", errors.New("the checkpoint is damaged"))
		}
		saved[a.App.Name] = a
	}
	parts := make([]checkpointedApp, len(apps))
	for i, r := range apps {
		part, there := saved[r.App.Name]
		if !there {
			return nil, errs.New(op, errs.Invalid, r.App.Name, errors.New("it is named twice, or isn't in the checkpoint"))
		}
		delete(saved, r.App.Name)
		parts[i] = part
	}
	if len(saved) > 0 {
		return nil, errs.New(op, errs.Invalid, slices.Sorted(maps.Keys(saved))[0], errors.New("it is in the checkpoint, and not among those to be restored"))
	}
	if len(apps) == 0 {
		return nil, errs.New(op, errs.Invalid, "", errors.New("none is named"))
	}
	return parts, nil
}

// canRestore says what is missing for a checkpoint to be restored as p.
func (e *Engine) canRestore(ctx context.Context, from *checkpointed, p *manifest.Pod) error {
	const op = "check"
	st, err := e.Flavors.Pin(p.Handler)
	if err != nil {
		return err
	}
	switch {
	case from.Version != checkpointVersion || from.Pod == nil:
		return errs.New(op, errs.Unsupported, "", fmt.Errorf("a checkpoint of version %d", from.Version))
	case from.Flavor != st.Flavor:
		return errs.New(op, errs.Precondition, "", fmt.Errorf("the checkpoint is of flavor %s, the handler %q has %s", from.Flavor, p.Handler, st.Flavor))
	case p.Namespaces.User != nil:
		return errs.New(op, errs.Precondition, "", errors.New("pods with a user namespace of their own can't be restored"))
	case !reflect.DeepEqual(from.Pod.Namespaces, p.Namespaces):
		return errs.New(op, errs.Invalid, "namespaces", errors.New("they differ from the checkpoint's"))
	}
	key := podKey(p)
	for _, s := range e.index.All() {
		if s.Ready() && podKey(s.Pod) == key {
			return errs.New(op, errs.Exists, s.Pod.ID, errors.New("the pod runs already"))
		}
	}
	return criuReady(ctx)
}

// prepare makes the draft of app one that is to be restored; of a nil
// AppCheckpoint it stays a new one.
func (c *AppCheckpoint) prepare(ctx context.Context, app *manifest.App, draft *pod.Draft) error {
	if c == nil {
		return nil
	}
	app.Restore = true
	draft.Fill(func(dir manifest.AppDir) error { return c.fill(ctx, dir) })
	return c.resembles(app)
}

// resembles says in what an app isn't what its checkpoint holds.
func (c *AppCheckpoint) resembles(app *manifest.App) error {
	was := c.part.App
	for _, same := range []struct {
		what    string
		is, was any
	}{
		{"image", app.Image.ID, was.Image.ID},
		{"command", app.Args, was.Args},
		{"working directory", app.Cwd, was.Cwd},
		{"environment", slices.Sorted(slices.Values(app.Env)), slices.Sorted(slices.Values(was.Env))},
		{"user", app.User, was.User},
		{"terminal", app.TTY, was.TTY},
		{"PID namespace", app.PID.Mode, was.PID.Mode},
	} {
		if !reflect.DeepEqual(same.is, same.was) {
			return errs.New("restore", errs.Invalid, same.what, errors.New("it differs from the checkpoint's"))
		}
	}
	return nil
}

// fill puts what a checkpoint holds of an app into the app's directory.
func (c *AppCheckpoint) fill(ctx context.Context, dir manifest.AppDir) error {
	if err := copyFiles(ctx, filepath.Join(c.Dir, wire.CheckpointImages), dir.Checkpoint()); err != nil {
		return err
	}
	diff, err := os.Open(filepath.Join(c.Dir, rootfsDiff))
	if err != nil {
		return errs.New("restore", errs.Invalid, "", err)
	}
	unpacked := filepath.Join(string(dir), "diff")
	if _, err := layer.Unpack(ctx, unpacked, diff, layer.Want{DiffID: c.part.Diff}); err != nil {
		return err
	}
	if err := os.Remove(dir.Upper()); err != nil { // empty yet
		return err
	}
	return errors.Join(os.Rename(layer.Tree(unpacked), dir.Upper()), sys.RemoveTree(unpacked))
}

// copyFiles copies a directory of regular files.
func copyFiles(ctx context.Context, from, to string) error {
	const op = "copy checkpoint"
	entries, err := os.ReadDir(from)
	if err == nil {
		err = os.Mkdir(to, 0o700)
	}
	for _, entry := range entries {
		if err != nil {
			break
		}
		if !entry.Type().IsRegular() {
			err = errs.New("copy", errs.Invalid, entry.Name(), errors.New("it is no regular file"))
			break
		}
		if err = ctx.Err(); err == nil {
			err = copyFile(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name()))
		}
	}
	return errs.Wrap(op, from, err)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

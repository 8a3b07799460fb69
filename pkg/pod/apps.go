package pod

import (
	"errors"
	"os"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Draft is the directory of an app that is being made. From the start it
// has the app's id in its (temporary) name, so that what the app holds
// elsewhere, such as a lease of its image, always has an owner on disk.
type Draft struct {
	id   string
	dir  manifest.AppDir
	goal manifest.AppDir
	more func(manifest.AppDir) error // nil: nothing
}

// DraftApp begins an app in the pod that lies at dir.
func DraftApp(dir manifest.Dir, id string) (*Draft, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	d := &Draft{id: id, goal: dir.App(id)}
	d.dir = manifest.AppDir(atomicfile.TempName(string(d.goal)))
	if err := os.Mkdir(string(d.dir), 0o700); err != nil {
		return nil, errs.Wrap("draft app", id, err)
	}
	crash.Point("pod.app.drafted")
	return d, nil
}

// Fill makes Finish call fill with the app's directory, whose writable layer
// is empty yet.
func (d *Draft) Fill(fill func(manifest.AppDir) error) { d.more = fill }

// Finish makes the draft an app, whole: app.json, the OCI bundle with spec as
// its config.json, and the writable layer, empty or as Fill left it, with the mode of root, the
// app's root directory in its image, and its owner as users maps it.
func (d *Draft) Finish(a *manifest.App, spec []byte, root os.FileInfo, users *manifest.UserNamespace) error {
	const op = "write app"
	if err := d.fill(a, spec, root, users); err != nil {
		return errs.Wrap(op, d.id, err)
	}
	crash.Point("pod.app.written")
	if err := os.Rename(string(d.dir), string(d.goal)); err != nil {
		return errs.Wrap(op, d.id, err)
	}
	crash.Point("pod.app.visible")
	return nil
}

// Discard removes what Finish did not finish; after Finish it does nothing.
func (d *Draft) Discard() error { return sys.RemoveTree(string(d.dir)) }

func (d *Draft) fill(a *manifest.App, spec []byte, root os.FileInfo, users *manifest.UserNamespace) error {
	for _, sub := range []string{d.dir.Bundle(), d.dir.Upper(), d.dir.Work()} {
		if err := os.Mkdir(sub, 0o700); err != nil {
			return err
		}
	}
	owner, err := sys.OwnerOf(root)
	if err != nil {
		return err
	}
	if owner.UID, owner.GID, err = users.Host(owner.UID, owner.GID); err != nil {
		return err
	}
	if err := sys.CopyMode(d.dir.Upper(), root, owner); err != nil {
		return err
	}
	if d.more != nil {
		if err := d.more(d.dir); err != nil {
			return err
		}
	}
	if err := os.WriteFile(d.dir.Spec(), spec, 0o600); err != nil {
		return err
	}
	return atomicfile.WriteRecord(d.dir.App(), manifest.KindApp, a)
}

// AppIDs gives the ids of all apps that have a directory in the pod at dir:
// finished, being made, or being removed.
func AppIDs(dir manifest.Dir) ([]string, error) {
	entries, err := os.ReadDir(dir.Apps())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errs.Wrap("list apps", string(dir), err)
	}
	var ids []string
	for _, e := range entries {
		if id := atomicfile.Untemp(e.Name()); CheckID(id) == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// UpdatePod replaces the record of the pod at dir, after its resources
// changed.
func UpdatePod(dir manifest.Dir, p *manifest.Pod) error {
	return errs.Wrap("update pod", p.ID, atomicfile.WriteRecord(dir.Pod(), manifest.KindPod, p))
}

// UpdateApp replaces an app's record, after its resources changed.
func UpdateApp(dir manifest.Dir, a *manifest.App) error {
	return errs.Wrap("update app", a.ID, atomicfile.WriteRecord(dir.App(a.ID).App(), manifest.KindApp, a))
}

// UpdateSpec replaces an app's config.json (OCI runtime-spec).
func UpdateSpec(dir manifest.Dir, id string, spec []byte) error {
	return errs.Wrap("update spec", id, atomicfile.Write(dir.App(id).Spec(), spec, 0o600))
}

// RemoveApp takes an app's directory away: first out of sight by one rename,
// then file by file. An app that isn't there is fine.
func RemoveApp(dir manifest.Dir, id string) error {
	const op = "remove app"
	if err := CheckID(id); err != nil {
		return err
	}
	path := string(dir.App(id))
	temp := atomicfile.TempName(path)
	if err := os.Rename(path, temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errs.Wrap(op, id, err)
	}
	crash.Point("pod.app.removed")
	return errs.Wrap(op, id, sys.RemoveTree(temp))
}

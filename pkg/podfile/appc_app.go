package podfile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// translation brings one app of appc's into a plan.
type translation struct {
	path    string // of the app, in what was read
	pod     *manifest.Pod
	app     *stage0.AppRequest
	said    stage0.AppRequest // app, as it was before
	mounts  []appc.Mount
	volumes []appc.Volume
	ofImage bool // an image says it, not who runs it
	notes   []Note
}

func (t *translation) note(path, text string) {
	t.notes = append(t.notes, Note{under(t.path, path), text})
}

// override is for an app that stands in a pod's manifest: all of it counts, in
// place of what the image says.
func (t *translation) override(a *appc.App) error {
	t.app.Command = a.Exec
	t.app.Cwd = cmp.Or(a.WorkingDirectory, "/")
	t.app.User.Username, t.app.User.Groupname = a.User, a.Group
	for _, v := range a.Environment {
		t.app.Env = append(t.app.Env, v.Name+"="+v.Value)
	}
	return t.translate(a)
}

// translate does what an OCI configuration has no word for.
func (t *translation) translate(a *appc.App) error {
	t.app.Env = append([]string{"AC_APP_NAME=" + t.app.App.Name, "container=stagelet"}, t.app.Env...)
	for _, gid := range a.SupplementaryGIDs {
		t.app.User.Supplemental = append(t.app.User.Supplemental, uint32(gid))
	}
	for i, h := range a.EventHandlers {
		t.note(at("eventHandlers", i), h.Name+" is not run")
	}
	for i, p := range a.Ports {
		if p.SocketActivated {
			t.note(at("ports", i)+".socketActivated", "the app has to listen itself")
		}
	}
	if err := t.fulfil(a.MountPoints); err != nil {
		return err
	}
	return t.isolate(a.Isolators)
}

// fulfil mounts what the pod says, then a volume at each mount point that has
// none yet: the one of its name, else an empty one of its own.
func (t *translation) fulfil(points []appc.MountPoint) error {
	for i, m := range t.mounts {
		path := at("mounts", i)
		v := m.AppVolume
		if v == nil {
			if v = t.volume(m.Volume); v == nil {
				return invalid(under(t.path, path)+".volume", "the pod has no volume %.80q", m.Volume)
			}
		}
		readOnly := slices.ContainsFunc(points, func(p appc.MountPoint) bool { return p.Name == m.Volume && p.ReadOnly })
		if err := Mount(t.pod, t.app, *v, m.Path, Access(readOnly)); err != nil {
			return err
		}
	}
	for i, p := range points {
		if t.mounted(p.Path) {
			continue
		}
		v := t.volume(p.Name)
		if v == nil {
			v = &appc.Volume{Name: volumeName(t.app.App.Name, p.Name), Kind: appc.VolumeEmpty}
			t.note(at("mountPoints", i), fmt.Sprintf("no volume %s is given: an empty one, which goes with the pod, is at %s", p.Name, p.Path))
		}
		if err := Mount(t.pod, t.app, *v, p.Path, Access(p.ReadOnly)); err != nil {
			return err
		}
	}
	return nil
}

func (t *translation) volume(name string) *appc.Volume {
	for i := range t.volumes {
		if t.volumes[i].Name == name {
			return &t.volumes[i]
		}
	}
	return nil
}

func (t *translation) mounted(path string) bool {
	path = filepath.Clean(path)
	return slices.ContainsFunc(t.app.App.Mounts, func(m manifest.Mount) bool { return filepath.Clean(m.Destination) == path }) ||
		slices.ContainsFunc(t.app.Volumes, func(v stage0.VolumeMount) bool { return filepath.Clean(v.Destination) == path })
}

// volumeName names the empty volume of a mount point, as rkt did; what would
// be too long ends in a digest.
func volumeName(app, point string) string {
	name := app + "-" + point
	if len(name) <= maxLabel {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	const digits = 8
	return name[:maxLabel-digits-1] + "-" + hex.EncodeToString(sum[:digits/2])
}

// Access says what an app may do in a volume.
type Access bool

// The accesses.
const (
	ReadWrite Access = false
	ReadOnly  Access = true
)

// Mount shows an app a volume at a path. An empty volume becomes one of the
// pod's, if it isn't yet. A volume that is read-only stays so.
func Mount(pod *manifest.Pod, app *stage0.AppRequest, v appc.Volume, path string, access Access) error {
	readOnly := bool(access) || v.ReadOnly
	if v.Kind == appc.VolumeHost {
		if v.Recursive != nil && !*v.Recursive {
			return unsupported("volume "+v.Name, "what is mounted below %s comes along: recursive can't be false", v.Source)
		}
		app.App.Mounts = append(app.App.Mounts, manifest.Mount{
			Source: v.Source, Destination: path, ReadOnly: readOnly, Propagation: manifest.PropagationPrivate,
		})
		return nil
	}
	if !slices.ContainsFunc(pod.Volumes, func(has manifest.EmptyVolume) bool { return has.Name == v.Name }) {
		empty := manifest.EmptyVolume{Name: v.Name, UID: idOf(v.UID), GID: idOf(v.GID)}
		if v.Mode != "" {
			mode, err := strconv.ParseUint(v.Mode, 8, 32)
			if err != nil {
				return invalid("volume "+v.Name, "%.40q is no mode", v.Mode)
			}
			empty.Mode = uint32(mode)
		}
		pod.Volumes = append(pod.Volumes, empty)
	}
	app.Volumes = append(app.Volumes, stage0.VolumeMount{Volume: v.Name, Destination: path, ReadOnly: readOnly})
	return nil
}

func idOf(id *int) uint32 {
	if id == nil {
		return 0
	}
	return uint32(*id)
}

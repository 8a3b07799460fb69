package podflags

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// volume is a volume of the pod, as NAME,kind=…: one of the host's
// directories, or an empty one.
type volume struct {
	source              string // "": it is empty
	readOnly, recursive bool
	empty               manifest.EmptyVolume
}

// The kinds of volume, in appc's words.
const (
	kindHost  = "host"
	kindEmpty = "empty"
)

// isBind tells PATH:TARGET from NAME,kind=….
func isBind(text string) bool {
	return !strings.Contains(text, ",kind=") && !strings.HasPrefix(text, "kind=")
}

// options reads KEY=VALUE,KEY=VALUE; known has the keys there are.
func options(flag, text string, known ...string) (map[string]string, error) {
	all := map[string]string{}
	for _, part := range strings.Split(text, ",") {
		key, value, found := strings.Cut(part, "=")
		if !found || !slices.Contains(known, key) {
			return nil, invalid(flag, "%.80q is none of %s=…", part, strings.Join(known, "=…, "))
		}
		if _, twice := all[key]; twice {
			return nil, invalid(flag, "%s is there twice", key)
		}
		all[key] = value
	}
	return all, nil
}

func parseVolume(text string) (name string, v volume, err error) {
	const flag = "volume"
	name, rest, _ := strings.Cut(text, ",")
	if !manifest.IsName(name) {
		return "", v, invalid(flag, "%.80q names no volume: lower-case letters, digits and '-'", name)
	}
	o, err := options(flag, rest, "kind", "source", "readOnly", "recursive", "mode", "uid", "gid")
	if err != nil {
		return "", v, err
	}
	if v.readOnly, err = yes(flag, o, "readOnly"); err != nil {
		return "", v, err
	}
	switch o["kind"] {
	case kindHost:
		err = v.host(name, o)
	case kindEmpty:
		err = v.make(name, o)
	default:
		err = invalid(flag, "%q is no kind of volume: host or empty", o["kind"])
	}
	return name, v, err
}

func (v *volume) host(name string, o map[string]string) (err error) {
	for _, key := range []string{"mode", "uid", "gid"} {
		if _, set := o[key]; set {
			return invalid("volume", "%s: a directory of the host keeps its %s", name, key)
		}
	}
	if v.source = o["source"]; !filepath.IsAbs(v.source) {
		return invalid("volume", "%s: source=%.120q is no absolute path", name, v.source)
	}
	v.recursive = true
	if _, set := o["recursive"]; set {
		v.recursive, err = yes("volume", o, "recursive")
	}
	if err == nil && !v.recursive {
		return invalid("volume", "%s: what is mounted below a directory of the host always comes along: leave out recursive=false", name)
	}
	return err
}

func (v *volume) make(name string, o map[string]string) error {
	const flag = "volume"
	for _, key := range []string{"source", "recursive"} {
		if _, set := o[key]; set {
			return invalid(flag, "%s: an empty volume has no %s", name, key)
		}
	}
	v.empty = manifest.EmptyVolume{Name: name}
	for key, field := range map[string]struct {
		to   *uint32
		base int
		most uint64
	}{"mode": {&v.empty.Mode, 8, 0o7777}, "uid": {&v.empty.UID, 10, 1<<32 - 2}, "gid": {&v.empty.GID, 10, 1<<32 - 2}} {
		if o[key] == "" {
			continue
		}
		n, err := strconv.ParseUint(o[key], field.base, 32)
		if err != nil || n > field.most {
			return invalid(flag, "%s: %s=%.40q is none", name, key, o[key])
		}
		*field.to = uint32(n)
	}
	return nil
}

// yes reads what is true or false; false when it isn't there.
func yes(flag string, o map[string]string, key string) (bool, error) {
	text, set := o[key]
	if !set {
		return false, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, invalid(flag, "%s=%.40q is neither true nor false", key, text)
	}
	return b, nil
}

// volumes gives the volumes that the apps name, each once.
func volumes(apps []App) (map[string]volume, error) {
	all := map[string]volume{}
	for _, a := range apps {
		for _, text := range a.volumes {
			if isBind(text) {
				continue
			}
			name, v, err := parseVolume(text)
			if err != nil {
				return nil, err
			}
			if other, there := all[name]; there && other != v {
				return nil, invalid("volume", "two volumes have the name %q", name)
			}
			all[name] = v
		}
	}
	return all, nil
}

// parseBind reads PATH:TARGET[:ro|rw], as Docker has it.
func parseBind(text string) (manifest.Mount, error) {
	parts := strings.Split(text, ":")
	m := manifest.Mount{Propagation: manifest.PropagationPrivate}
	if len(parts) < 2 || len(parts) > 3 {
		return m, invalid("volume", "%.120q is neither NAME,kind=host,source=PATH nor NAME,kind=empty nor PATH:TARGET[:ro]", text)
	}
	m.Source, m.Destination = parts[0], parts[1]
	if len(parts) == 3 {
		if parts[2] != "ro" && parts[2] != "rw" {
			return m, invalid("volume", "%.80q: %.20q is neither ro nor rw", text, parts[2])
		}
		m.ReadOnly = parts[2] == "ro"
	}
	if !filepath.IsAbs(m.Source) {
		return m, invalid("volume", "%.120q is no absolute path of the host; an empty volume is NAME,kind=empty", m.Source)
	}
	return m, checkTarget("volume", m.Destination)
}

func checkTarget(flag, path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
		return invalid(flag, "%.120q is no absolute path in an app", path)
	}
	return nil
}

// place shows a volume to an app.
func place(r *stage0.AppRequest, name string, v volume, target string, readOnly bool) { //nolint:revive // as the mount has it
	readOnly = readOnly || v.readOnly
	if v.source == "" {
		r.Volumes = append(r.Volumes, stage0.VolumeMount{Volume: name, Destination: target, ReadOnly: readOnly})
		return
	}
	r.App.Mounts = append(r.App.Mounts, manifest.Mount{
		Source: v.source, Destination: target, ReadOnly: readOnly, RecursiveReadOnly: readOnly, Propagation: manifest.PropagationPrivate,
	})
}

// mountAll fills the mounts of an app, and notes which volumes it uses. Where
// its image says where it expects a volume, it is put there unless a flag says
// otherwise.
func (a *App) mountAll(r *stage0.AppRequest, pod map[string]volume, expects map[string]string, used map[string]bool) error {
	for _, text := range a.volumes {
		if !isBind(text) {
			continue
		}
		m, err := parseBind(text)
		if err != nil {
			return err
		}
		r.App.Mounts = append(r.App.Mounts, m)
	}
	placed := map[string]bool{}
	for _, text := range a.mounts {
		o, err := options("mount", text, "volume", "target", "readOnly")
		if err != nil {
			return err
		}
		readOnly, err := yes("mount", o, "readOnly")
		if err != nil {
			return err
		}
		v, there := pod[o["volume"]]
		if !there {
			return invalid("mount", "there is no volume %.80q: name it with --volume", o["volume"])
		}
		if err := checkTarget("mount", o["target"]); err != nil {
			return err
		}
		place(r, o["volume"], v, o["target"], readOnly)
		placed[o["volume"]] = true
	}
	for _, name := range slices.Sorted(maps.Keys(pod)) {
		if target := expects[name]; target != "" && !placed[name] {
			place(r, name, pod[name], target, false)
			placed[name] = true
		}
	}
	maps.Copy(used, placed)
	return nil
}

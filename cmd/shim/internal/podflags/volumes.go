package podflags

import (
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/podfile"
	"github.com/stagelet/stagelet/pkg/stage0"
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

func parseVolume(text string) (v appc.Volume, err error) {
	const flag = "volume"
	name, rest, _ := strings.Cut(text, ",")
	if !manifest.IsName(name) {
		return v, invalid(flag, "%.80q names no volume: lower-case letters, digits and '-'", name)
	}
	o, err := options(flag, rest, "kind", "source", "readOnly", "recursive", "mode", "uid", "gid")
	if err != nil {
		return v, err
	}
	v.Name, v.Kind = name, o["kind"]
	if v.ReadOnly, err = yes(flag, o, "readOnly"); err != nil {
		return v, err
	}
	switch v.Kind {
	case appc.VolumeHost:
		return v, hostVolume(&v, o)
	case appc.VolumeEmpty:
		return v, emptyVolume(&v, o)
	}
	return v, invalid(flag, "%q is no kind of volume: host or empty", v.Kind)
}

func hostVolume(v *appc.Volume, o map[string]string) error {
	const flag = "volume"
	for _, key := range []string{"mode", "uid", "gid"} {
		if _, set := o[key]; set {
			return invalid(flag, "%s: a directory of the host keeps its %s", v.Name, key)
		}
	}
	if v.Source = o["source"]; !filepath.IsAbs(v.Source) {
		return invalid(flag, "%s: source=%.120q is no absolute path", v.Name, v.Source)
	}
	if _, set := o["recursive"]; set {
		recursive, err := yes(flag, o, "recursive")
		if err != nil {
			return err
		}
		v.Recursive = &recursive
	}
	return nil
}

func emptyVolume(v *appc.Volume, o map[string]string) error {
	const flag = "volume"
	for _, key := range []string{"source", "recursive"} {
		if _, set := o[key]; set {
			return invalid(flag, "%s: an empty volume has no %s", v.Name, key)
		}
	}
	if mode, set := o["mode"]; set {
		if n, err := strconv.ParseUint(mode, 8, 32); err != nil || n > 0o7777 {
			return invalid(flag, "%s: mode=%.40q is no mode in octal digits", v.Name, mode)
		}
		v.Mode = mode
	}
	for key, to := range map[string]**int{"uid": &v.UID, "gid": &v.GID} {
		text, set := o[key]
		if !set {
			continue
		}
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil || id >= math.MaxUint32 {
			return invalid(flag, "%s: %s=%.40q is no id", v.Name, key, text)
		}
		n := int(id)
		*to = &n
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
func volumes(apps []App) (all []appc.Volume, err error) {
	for _, a := range apps {
		for _, text := range a.volumes {
			if isBind(text) {
				continue
			}
			v, err := parseVolume(text)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(all, func(o appc.Volume) bool { return o.Name == v.Name })
			switch {
			case i < 0:
				all = append(all, v)
			case !reflect.DeepEqual(all[i], v):
				return nil, invalid("volume", "two volumes have the name %q", v.Name)
			}
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

// mountAll gives an app what its flags say, and gives the names of the volumes
// that it has.
func (a *App) mountAll(pod *manifest.Pod, r *stage0.AppRequest, all []appc.Volume) (used []string, err error) {
	for _, text := range a.volumes {
		if !isBind(text) {
			continue
		}
		m, err := parseBind(text)
		if err != nil {
			return nil, err
		}
		r.App.Mounts = append(r.App.Mounts, m)
	}
	for _, text := range a.mounts {
		o, err := options("mount", text, "volume", "target", "readOnly")
		if err != nil {
			return nil, err
		}
		readOnly, err := yes("mount", o, "readOnly")
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(all, func(v appc.Volume) bool { return v.Name == o["volume"] })
		if i < 0 {
			return nil, invalid("mount", "there is no volume %.80q: name it with --volume", o["volume"])
		}
		if err := checkTarget("mount", o["target"]); err != nil {
			return nil, err
		}
		if err := podfile.Mount(pod, r, all[i], o["target"], podfile.Access(readOnly)); err != nil {
			return nil, err
		}
		used = append(used, o["volume"])
	}
	return used, nil
}

package ocispec

import (
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Adopt turns the bind mounts that somebody added to a generated spec into
// mounts of the app. A runtime sees the mounts of its pod's supervisor alone,
// so it is the supervisor that has to open what they show, in the host's
// view. generated is what the spec had before.
func Adopt(spec *specs.Spec, generated []specs.Mount, app *manifest.App, run manifest.RunDir, users *manifest.UserNamespace) {
	for i, m := range spec.Mounts {
		if !isBind(m) || slices.ContainsFunc(generated, func(g specs.Mount) bool { return reflect.DeepEqual(g, m) }) {
			continue
		}
		mount := manifest.Mount{Source: m.Source, Destination: m.Destination, Propagation: manifest.PropagationPrivate, Injected: true}
		spec.Mounts[i].Source = filepath.Join(run.Volumes(app.ID), strconv.Itoa(len(app.Mounts)))
		spec.Mounts[i].Type = "bind"
		// The supervisor maps ids; a runtime would do it once more.
		spec.Mounts[i].UIDMappings, spec.Mounts[i].GIDMappings = nil, nil
		spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), isMapping)
		if users != nil && (slices.ContainsFunc(m.Options, isMapping) || len(m.UIDMappings) > 0) {
			mount.UIDs, mount.GIDs = users.UIDs, users.GIDs
		}
		app.Mounts = append(app.Mounts, mount)
	}
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.ContainsFunc(m.Options, func(o string) bool { return strings.TrimPrefix(o, "r") == "bind" })
}

func isMapping(option string) bool { return option == "idmap" || option == "ridmap" }

// BindDevices has the nodes of devices bound from the host's, for an app in a
// user namespace, where none can be made. Runtimes do so too, but look for
// them at the paths that they are to have in the app: those that are elsewhere
// become mounts. node gives the path of a device on the host.
func BindDevices(spec *specs.Spec, node func(specs.LinuxDevice) (string, error)) error {
	var left []specs.LinuxDevice
	for _, d := range spec.Linux.Devices {
		path, err := node(d)
		if err != nil {
			return err
		}
		if path == d.Path {
			left = append(left, d)
			continue
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{
			Destination: d.Path, Type: "bind", Source: path, Options: []string{"bind", "rprivate", "nosuid", "noexec"},
		})
	}
	spec.Linux.Devices = left
	return nil
}

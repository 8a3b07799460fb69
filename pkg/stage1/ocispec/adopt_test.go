package ocispec

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestAdopt(t *testing.T) {
	in := input()
	in.App.Mounts = []manifest.Mount{{Source: "/a", Destination: "/a"}}
	spec, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	generated := append([]specs.Mount(nil), spec.Mounts...)
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Source: "/lib/x", Destination: "/x", Options: []string{"ro", "rbind", "ridmap"}},
		specs.Mount{Source: "tmpfs", Destination: "/t", Type: "tmpfs"},
		specs.Mount{Source: "/y", Destination: "/y", Type: "bind", UIDMappings: []specs.LinuxIDMapping{{Size: 1}}},
		specs.Mount{Source: "/z", Destination: "/z", Type: "bind"},
	)
	users := &manifest.UserNamespace{UIDs: []manifest.IDMapping{{HostID: 9, Length: 9}}, GIDs: []manifest.IDMapping{{HostID: 8, Length: 8}}}
	Adopt(spec, generated, in.App, in.RunDir, users)
	want := []manifest.Mount{
		{Source: "/a", Destination: "/a"},
		{Source: "/lib/x", Destination: "/x", Propagation: "private", Injected: true, UIDs: users.UIDs, GIDs: users.GIDs},
		{Source: "/y", Destination: "/y", Propagation: "private", Injected: true, UIDs: users.UIDs, GIDs: users.GIDs},
		{Source: "/z", Destination: "/z", Propagation: "private", Injected: true},
	}
	if !reflect.DeepEqual(in.App.Mounts, want) {
		t.Errorf("mounts of the app: %+v", in.App.Mounts)
	}
	n := len(generated)
	if !reflect.DeepEqual(spec.Mounts[:n], generated) || spec.Mounts[n+1].Source != "tmpfs" {
		t.Errorf("others were changed: %+v", spec.Mounts)
	}
	for i, at := range map[string]int{"1": n, "2": n + 2, "3": n + 3} {
		m := spec.Mounts[at]
		if m.Source != filepath.Join(in.RunDir.Volumes(in.App.ID), i) || len(m.UIDMappings) > 0 {
			t.Errorf("mount %+v", m)
		}
	}
	if got := spec.Mounts[n].Options; !reflect.DeepEqual(got, []string{"ro", "rbind"}) {
		t.Errorf("options %q", got)
	}
}

func TestBindDevices(t *testing.T) {
	spec := &specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/zilch", Type: "c", Major: 1, Minor: 3},
	}}}
	if err := BindDevices(spec, HostNode); err != nil {
		t.Fatal(err)
	}
	if d := spec.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/null" {
		t.Errorf("devices %+v", d)
	}
	if m := spec.Mounts; len(m) != 1 || m[0].Source != "/dev/null" || m[0].Destination != "/dev/zilch" || !isBind(m[0]) {
		t.Errorf("mounts %+v", m)
	}
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "b", Major: 4000, Minor: 4}}
	if err := BindDevices(spec, HostNode); !errors.Is(err, errs.NotFound) {
		t.Errorf("got %v", err)
	}
}

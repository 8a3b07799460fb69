package pod_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestMakeVolumes(t *testing.T) {
	testutil.NeedRoot(t)
	dir := manifest.Dir(t.TempDir())
	mapped := []manifest.IDMapping{{ContainerID: 0, HostID: 100000, Length: 65536}}
	p := &manifest.Pod{
		ID: pod.NewID(),
		Volumes: []manifest.EmptyVolume{
			{Name: "plain"}, {Name: "shared", Mode: 0o1777}, {Name: "group", Mode: 0o2770, UID: 1000, GID: 2000},
		},
		Namespaces: manifest.Namespaces{User: &manifest.UserNamespace{UIDs: mapped, GIDs: mapped}},
	}
	if err := pod.MakeVolumes(dir, p); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][3]uint32{
		"plain": {0o755, 100000, 100000}, "shared": {0o1777, 100000, 100000}, "group": {0o2770, 101000, 102000},
	} {
		var st syscall.Stat_t
		if err := syscall.Stat(dir.Volume(name), &st); err != nil {
			t.Fatal(err)
		}
		if got := [3]uint32{st.Mode & 0o7777, st.Uid, st.Gid}; got != want {
			t.Errorf("%s: mode, owner, group are %o, want %o", name, got, want)
		}
	}
	p.Volumes = []manifest.EmptyVolume{{Name: "nobodys", UID: 70000}}
	if err := pod.MakeVolumes(dir, p); !errors.Is(err, errs.Invalid) {
		t.Errorf("of a user that isn't mapped: %v", err)
	}
	if _, err := os.Stat(dir.Volume("nobodys")); err == nil {
		t.Error("it was made")
	}
}

func TestCheckVolumes(t *testing.T) {
	for what, volumes := range map[string][]manifest.EmptyVolume{
		"a path":       {{Name: "../x"}},
		"no name":      {{}},
		"a long name":  {{Name: strings.Repeat("x", 64)}},
		"twice":        {{Name: "x"}, {Name: "x"}},
		"no mode":      {{Name: "x", Mode: 0o10000}},
		"far too many": make([]manifest.EmptyVolume, 1000),
	} {
		if err := manifest.CheckVolumes(volumes); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

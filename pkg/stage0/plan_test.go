package stage0

import (
	"errors"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestPlanCheck(t *testing.T) {
	named := func(names ...string) (apps []AppRequest) {
		for _, n := range names {
			apps = append(apps, AppRequest{App: manifest.App{Name: n}})
		}
		return apps
	}
	withVolume := func(v VolumeMount) Plan {
		p := Plan{Pod: manifest.Pod{Volumes: []manifest.EmptyVolume{{Name: "data"}}}, Apps: named("web")}
		p.Apps[0].Volumes = []VolumeMount{v}
		return p
	}
	for what, p := range map[string]Plan{
		"no app":                   {Init: named("web")},
		"no name":                  {Apps: named("")},
		"a path for a name":        {Apps: named("../web")},
		"the supervisor's name":    {Apps: named("stage1")},
		"one name twice":           {Init: named("web"), Apps: named("web")},
		"a volume that isn't":      withVolume(VolumeMount{Volume: "other", Destination: "/data"}),
		"a volume at no path":      withVolume(VolumeMount{Volume: "data", Destination: "data"}),
		"a volume over everything": withVolume(VolumeMount{Volume: "data", Destination: "/../"}),
		"a volume without a name":  {Pod: manifest.Pod{Volumes: []manifest.EmptyVolume{{}}}, Apps: named("web")},
	} {
		if err := p.Check(); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	p := withVolume(VolumeMount{Volume: "data", Destination: "/data"})
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	given := p.Apps
	if p.complete(); p.Apps[0].App.LogPath != "web.log" || given[0].App.LogPath != "" {
		t.Errorf("log %q, the caller's %q", p.Apps[0].App.LogPath, given[0].App.LogPath)
	}
}

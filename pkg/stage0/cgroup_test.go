package stage0

import (
	"errors"
	"strings"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func TestPlaceOfCgroups(t *testing.T) {
	const slice = "/kubepods.slice/kubepods-podx.slice"
	for _, c := range []struct {
		name, parent string
		driver       CgroupDriver
		supervisor   string
		owned        bool
	}{
		{"cgroupfs", "/kubepods/podx", CgroupFS, "/kubepods/podx/p", false},
		{"cgroupfs, no parent", "", CgroupFS, "/stagelet/p/p", true},
		{"systemd", slice, Systemd, slice + "/stagelet-p.scope/p", false},
		{"systemd, by name", "kubepods-podx.slice", Systemd, slice + "/stagelet-p.scope/p", false},
		{"systemd, no parent", "", Systemd, "/stagelet.slice/stagelet-p.slice/stagelet-p.scope/p", true},
	} {
		p := manifest.Pod{ID: "p", CgroupParent: c.parent}
		if err := c.driver.place(&p); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := p.Cgroup(p.ID); got != c.supervisor || p.OwnsCgroupParent != c.owned {
			t.Errorf("%s: the supervisor is in %s (parent owned: %t), want %s", c.name, got, p.OwnsCgroupParent, c.supervisor)
		}
	}
	for _, c := range []struct {
		parent string
		driver CgroupDriver
		says   string
	}{
		{slice, CgroupFS, "cgroup.driver: systemd"},
		{"kubepods-podx.slice", CgroupFS, "cgroup.driver: systemd"},
		{"/kubepods/podx", Systemd, "cgroup.driver: cgroupfs"},
		{"/elsewhere/kubepods-podx.slice", Systemd, slice},
		{"/kubepods-podx.slice", Systemd, slice},
		{"a--b.slice", Systemd, "slice"},
		{"/", CgroupFS, "root"},
		{"/a/../b", CgroupFS, "clean"},
	} {
		p := manifest.Pod{ID: "p", CgroupParent: c.parent}
		if err := c.driver.place(&p); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s under %s: %v", c.parent, c.driver, err)
		}
	}
}

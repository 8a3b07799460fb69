package systemd

import (
	"errors"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/stagelet/stagelet/internal/errs"
)

func TestSlicePath(t *testing.T) {
	for name, want := range map[string]string{
		"a.slice":                         "/a.slice",
		"kubepods-burstable-podx_y.slice": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx_y.slice",
		`a\x2db.slice`:                    `/a\x2db.slice`,
	} {
		if got, err := SlicePath(name); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{
		"", ".slice", "-.slice", "-a.slice", "a-.slice", "a--b.slice", "a.scope", "a/b.slice", "a b.slice", "a\x00.slice",
		strings.Repeat("a", 250) + ".slice",
	} {
		if got, err := SlicePath(name); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
}

func TestEndOfAJob(t *testing.T) {
	const mine, other = dbus.ObjectPath("/job/1"), dbus.ObjectPath("/job/2")
	removed := func(job dbus.ObjectPath, result any) *dbus.Signal {
		return &dbus.Signal{Name: manager + ".JobRemoved", Body: []any{uint32(1), job, "a.scope", result}}
	}
	for _, s := range []*dbus.Signal{nil, {Name: manager + ".JobNew"}, {Name: manager + ".JobRemoved"}, removed(other, "done")} {
		if done, _ := ended(s, mine); done {
			t.Errorf("%v ends the job", s)
		}
	}
	for result, good := range map[string]bool{"done": true, "skipped": true, "failed": false, "canceled": false, "timeout": false, "dependency": false} {
		done, got := ended(removed(mine, result), mine)
		if err := outcome(got); !done || (err == nil) != good {
			t.Errorf("%s: %t, %v", result, done, err)
		}
	}
	if done, result := ended(removed(mine, 7), mine); !done || outcome(result) == nil {
		t.Error("a result of another type is a good one")
	}
}

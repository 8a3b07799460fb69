// Package systemd asks the service manager of this host to make, and to take
// away, the units whose cgroups pods live in (org.freedesktop.systemd1(5)).
//
// Every call is a connection of its own to systemd itself, not through a bus:
// nothing has to be kept, nothing else has to run, and a manager that hangs
// delays nobody but the caller, until its context ends.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/stagelet/stagelet/internal/errs"
)

const (
	// bootedDir exists where systemd is the service manager (sd_booted(3)).
	bootedDir = "/run/systemd/system"
	// address is systemd's own socket, for root alone.
	address = "unix:path=/run/systemd/private"

	manager  = "org.freedesktop.systemd1.Manager"
	noUnit   = "org.freedesktop.systemd1.NoSuchUnit"
	notFound = "org.freedesktop.systemd1.NotLoaded"
)

// Booted reports whether systemd is the service manager of this host.
func Booted() bool {
	fi, err := os.Lstat(bootedDir)
	return err == nil && fi.IsDir()
}

// Scope is a transient scope unit (systemd.scope(5)) with one process. Its
// cgroup is delegated: what is below it is ours alone to arrange.
type Scope struct {
	Name        string // ends with ".scope"
	Slice       string // ends with ".slice"; made when it is missing
	Description string
	PID         int
}

// property is one setting of a unit, as D-Bus has it: (sv).
type property struct {
	Name  string
	Value dbus.Variant
}

// auxiliary is a further unit to be made with one: (sa(sv)). There are none.
type auxiliary struct {
	Name       string
	Properties []property
}

// StartScope makes the unit, moves the process into its cgroup, and returns
// when that is done.
func StartScope(ctx context.Context, s Scope) error {
	// DefaultDependencies would have pods stopped at shutdown before kubelet
	// had time to; what fails is forgotten without anyone resetting it.
	properties := []property{
		{"Description", dbus.MakeVariant(s.Description)},
		{"Slice", dbus.MakeVariant(s.Slice)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(s.PID)})},
		{"Delegate", dbus.MakeVariant(true)},
		{"DefaultDependencies", dbus.MakeVariant(false)},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	err := job(ctx, "StartTransientUnit", s.Name, "fail", properties, []auxiliary{})
	return errs.Wrap("start unit", s.Name, err)
}

// Stop ends a unit with all processes in it, and takes its cgroup away. One
// that doesn't exist is fine.
func Stop(ctx context.Context, unit string) error {
	err := job(ctx, "StopUnit", unit, "replace")
	var refused dbus.Error
	if errors.As(err, &refused) && (refused.Name == noUnit || refused.Name == notFound) {
		return nil
	}
	return errs.Wrap("stop unit", unit, err)
}

// job calls a method of the manager that queues a job, and waits for its end.
func job(ctx context.Context, method string, args ...any) error {
	conn, err := connect(ctx)
	if err != nil {
		return errs.New("connect to systemd", errs.Unavailable, address, err)
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals) // before the call: the job may end before its answer is read
	var queued dbus.ObjectPath
	object := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	if err := object.CallWithContext(ctx, manager+"."+method, 0, args...).Store(&queued); err != nil {
		if ctx.Err() != nil {
			return errs.New("call systemd", errs.KindOf(ctx.Err()), method, ctx.Err())
		}
		return err
	}
	for {
		select {
		case s, open := <-signals:
			if !open {
				return errs.New("wait for job", errs.Unavailable, method, errors.New("systemd hung up"))
			}
			if done, result := ended(s, queued); done {
				return outcome(result)
			}
		case <-ctx.Done():
			return errs.New("wait for job", errs.KindOf(ctx.Err()), method, ctx.Err())
		}
	}
}

func connect(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	// The number of the user, as looking up its name could need a service.
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// ended reads JobRemoved(u id, o job, s unit, s result).
func ended(s *dbus.Signal, queued dbus.ObjectPath) (done bool, result string) {
	if s == nil || s.Name != manager+".JobRemoved" || len(s.Body) < 4 || s.Body[1] != queued {
		return false, ""
	}
	result, _ = s.Body[3].(string)
	return true, result
}

func outcome(result string) error {
	if result == "done" || result == "skipped" {
		return nil
	}
	return errs.New("run job", errs.Unavailable, "", fmt.Errorf("its result is %q; see the journal of this host", result))
}

// maxUnit is the longest name of a unit, in bytes (systemd.unit(5)).
const maxUnit = 255

// SlicePath gives the cgroup of a slice: a dash in its name is a step down
// (systemd.slice(5)), so a-b.slice is /a.slice/a-b.slice. A name that is none
// of a slice is errs.Invalid.
func SlicePath(name string) (string, error) {
	stem, found := strings.CutSuffix(name, ".slice")
	bad := !found || len(name) > maxUnit || strings.ContainsFunc(stem, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune(`:-_.\`, r)
	})
	var path, slice strings.Builder
	for part := range strings.SplitSeq(stem, "-") {
		bad = bad || part == ""
		if slice.Len() > 0 {
			slice.WriteByte('-')
		}
		slice.WriteString(part)
		path.WriteString("/" + slice.String() + ".slice")
	}
	if bad {
		return "", errs.New("check slice", errs.Invalid, fmt.Sprintf("%.80q", name), errors.New("is no name of a systemd slice, such as kubepods-besteffort.slice"))
	}
	return path.String(), nil
}

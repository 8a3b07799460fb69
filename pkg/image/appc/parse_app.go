package appc

import (
	"fmt"

	"github.com/stagelet/stagelet/pkg/image"
)

func (a *App) check() error {
	if a == nil {
		return nil
	}
	for i := range a.Ports {
		a.Ports[i].Count = max(1, a.Ports[i].Count)
	}
	if a.WorkingDirectory != "" {
		if err := checkPath(a.WorkingDirectory); err != nil {
			return fmt.Errorf("workingDirectory: %w", err)
		}
	}
	return first(
		within("exec", checkExec(a.Exec)),
		within("user", checkUser(a.User)), within("group", checkUser(a.Group)),
		each("supplementaryGIDs", a.SupplementaryGIDs, checkID),
		within("eventHandlers", unique(a.EventHandlers, func(h EventHandler) string { return h.Name })),
		each("eventHandlers", a.EventHandlers, EventHandler.check),
		within("environment", unique(a.Environment, func(v EnvironmentVariable) string { return v.Name })),
		each("environment", a.Environment, EnvironmentVariable.check),
		within("mountPoints", unique(a.MountPoints, func(p MountPoint) string { return p.Name })),
		each("mountPoints", a.MountPoints, MountPoint.check),
		within("ports", unique(a.Ports, func(p Port) string { return p.Name })),
		each("ports", a.Ports, Port.check),
		each("isolators", a.Isolators, Isolator.check),
		within("userAnnotations", checkUserMap(a.UserAnnotations)), within("userLabels", checkUserMap(a.UserLabels)),
	)
}

// checkExec checks a command; none is allowed, an empty program is not.
func checkExec(exec []string) error {
	if len(exec) > 0 && exec[0] == "" {
		return fmt.Errorf("%w: its first element names no program", image.Malformed)
	}
	for _, arg := range exec {
		if err := checkText(arg); err != nil {
			return err
		}
	}
	return nil
}

// checkUser checks a user or a group: a name, a number or an absolute path.
func checkUser(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: it is required", image.Incomplete)
	case s[0] == '/':
		return checkPath(s)
	case len(s) > maxString:
		return fmt.Errorf("%w: %d bytes, more than %d", image.TooLarge, len(s), maxString)
	}
	return checkText(s)
}

// checkID checks a number of a user or a group; the last one means none.
func checkID(id int) error {
	if id < 0 || int64(id) > 1<<32-2 {
		return fmt.Errorf("%w: %d is no id", image.Malformed, id)
	}
	return nil
}

func (h EventHandler) check() error {
	if h.Name != PreStart && h.Name != PostStop {
		return fmt.Errorf("%w: %s must be %s or %s", image.Malformed, image.Printable(h.Name), PreStart, PostStop)
	}
	if len(h.Exec) == 0 {
		return fmt.Errorf("%w: %s runs nothing", image.Incomplete, h.Name)
	}
	return checkExec(h.Exec)
}

func (v EnvironmentVariable) check() error {
	if !variable.MatchString(v.Name) {
		return fmt.Errorf("%w: %s can't be the name of a variable", image.Malformed, image.Printable(v.Name))
	}
	return checkText(v.Value)
}

func (p MountPoint) check() error {
	return first(CheckName(p.Name), within("path", checkPath(p.Path)))
}

const maxPort = 65535

func (p Port) check() error {
	switch {
	case p.Port < 1 || p.Port > maxPort || p.Count > maxPort || p.Port+p.Count-1 > maxPort:
		return fmt.Errorf("%w: %d ports from %d on are not between 1 and %d", image.Malformed, p.Count, p.Port, maxPort)
	case p.Protocol == "" || len(p.Protocol) > maxString:
		return fmt.Errorf("%w: a port needs a protocol", image.Incomplete)
	}
	return first(CheckName(p.Name), checkText(p.Protocol))
}

func (i Isolator) check() error {
	if len(i.Value) == 0 || string(i.Value) == "null" {
		return fmt.Errorf("%w: it has no value", image.Incomplete)
	}
	return CheckIdentifier(i.Name)
}

func checkUserMap(m map[string]string) error {
	if len(m) > maxItems {
		return fmt.Errorf("%w: %d, more than %d", image.TooLarge, len(m), maxItems)
	}
	return nil
}

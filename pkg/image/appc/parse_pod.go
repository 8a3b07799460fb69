package appc

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/stagelet/stagelet/pkg/image"
)

func (m *PodManifest) check() error {
	if len(m.Apps) == 0 {
		return fmt.Errorf("apps: %w: there is none", image.Incomplete)
	}
	for i := range m.Ports {
		if p := m.Ports[i].PodPort; p != nil {
			p.Count = max(1, p.Count)
		}
	}
	return first(
		checkKind(m.Kind, PodManifestKind), checkVersion(m.Version),
		within("apps", unique(m.Apps, func(a RuntimeApp) string { return a.Name })),
		each("apps", m.Apps, RuntimeApp.check),
		within("volumes", unique(m.Volumes, func(v Volume) string { return v.Name })),
		each("volumes", m.Volumes, Volume.check),
		each("isolators", m.Isolators, Isolator.check),
		within("annotations", m.Annotations.check()),
		each("ports", m.Ports, ExposedPort.check),
		within("userAnnotations", checkUserMap(m.UserAnnotations)), within("userLabels", checkUserMap(m.UserLabels)),
	)
}

func (a RuntimeApp) check() error {
	return first(
		within("name", CheckName(a.Name)),
		within("image", a.Image.check()),
		within("app", a.App.check()),
		within("mounts", unique(a.Mounts, func(m Mount) string { return m.Path })),
		each("mounts", a.Mounts, Mount.check),
		within("annotations", a.Annotations.check()),
	)
}

func (i RuntimeImage) check() error {
	if i.ID == "" && i.Name == "" {
		return fmt.Errorf("%w: it has neither an id nor a name", image.Incomplete)
	}
	if i.ID != "" {
		if err := checkIDPrefix(i.ID); err != nil {
			return fmt.Errorf("id: %w", err)
		}
	}
	if i.Name != "" {
		if err := CheckIdentifier(i.Name); err != nil {
			return fmt.Errorf("name: %w", err)
		}
	}
	return first(within("labels", i.Labels.check()), within("labels", checkLabelNames(i.Labels)))
}

func (m Mount) check() error {
	if m.AppVolume != nil {
		if err := m.AppVolume.check(); err != nil {
			return fmt.Errorf("appVolume: %w", err)
		}
	}
	return first(within("volume", CheckName(m.Volume)), within("path", checkPath(m.Path)))
}

func (v Volume) check() error {
	if err := CheckName(v.Name); err != nil {
		return err
	}
	switch v.Kind {
	case VolumeHost:
		if v.Mode != "" || v.UID != nil || v.GID != nil {
			return fmt.Errorf("%w: %s is of the host: it has its own mode and owner", image.Malformed, v.Name)
		}
		return within("source", checkPath(v.Source))
	case VolumeEmpty:
		return v.checkEmpty()
	}
	return fmt.Errorf("kind: %w: %s must be %s or %s", image.Malformed, image.Printable(v.Kind), VolumeEmpty, VolumeHost)
}

func (v Volume) checkEmpty() error {
	if v.Source != "" {
		return fmt.Errorf("%w: %s is empty: it has no source", image.Malformed, v.Name)
	}
	if v.Mode != "" {
		if mode, err := strconv.ParseUint(v.Mode, 8, 32); err != nil || mode > 0o7777 {
			return fmt.Errorf("mode: %w: %s is no mode in octal digits", image.Malformed, image.Printable(v.Mode))
		}
	}
	for _, id := range []*int{v.UID, v.GID} {
		if id != nil {
			if err := checkID(*id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p ExposedPort) check() error {
	if p.HostPort < 1 || p.HostPort > maxPort {
		return fmt.Errorf("hostPort: %w: %d is not between 1 and %d", image.Malformed, p.HostPort, maxPort)
	}
	if p.HostIP != "" {
		if _, err := netip.ParseAddr(p.HostIP); err != nil {
			return fmt.Errorf("hostIP: %w: %s is no address", image.Malformed, image.Printable(p.HostIP))
		}
	}
	if p.PodPort != nil {
		if err := p.PodPort.check(); err != nil {
			return fmt.Errorf("podPort: %w", err)
		}
	}
	return CheckName(p.Name)
}

package ocispec

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// maxDevices bounds the devices of one app.
const maxDevices = 4096

// ReadHost finds out what specs depend on of this host and of this process.
// It stays true for the life of the process.
func ReadHost(cgroups sys.Cgroups) (Host, error) {
	const op = "read host"
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return Host{}, errs.Wrap(op, "", err)
	}
	bounding, err := capabilitySet(status, "CapBnd")
	if err != nil {
		return Host{}, errs.Wrap(op, "", err)
	}
	effective, err := capabilitySet(status, "CapEff")
	if err != nil {
		return Host{}, errs.Wrap(op, "", err)
	}
	h := Host{
		CgroupV2: cgroups.V2(), SwapLimits: cgroups.SwapLimits(), HugePageSizes: cgroups.HugePageSizes(),
		Capabilities: bounding, Effective: effective,
	}
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	h.AppArmor = err == nil && bytes.HasPrefix(enabled, []byte("Y"))
	if !slices.Contains(effective, "CAP_SYS_RESOURCE") {
		text, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return Host{}, errs.Wrap(op, "", err)
		}
		floor, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return Host{}, errs.Wrap(op, "/proc/self/oom_score_adj", err)
		}
		h.OOMScoreAdjFloor = &floor
	}
	return h, nil
}

// capabilitySet reads one set out of proc_pid_status(5). Capabilities that
// this program has no name for are left out.
func capabilitySet(status []byte, field string) ([]string, error) {
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		value, found := strings.CutPrefix(lines.Text(), field+":")
		if !found {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return nil, err
		}
		var names []string
		for n, name := range AllCapabilities() {
			if bits&(1<<n) != 0 {
				names = append(names, name)
			}
		}
		return names, nil
	}
	return nil, fmt.Errorf("there is no %s in /proc/self/status", field)
}

// AppDevices finds the devices that an app gets: those it names, where a
// directory stands for all devices in it, over those of the host's /dev when
// it is privileged. A path that is none is errs.NotFound or errs.Invalid.
func AppDevices(app *manifest.App) ([]Device, error) {
	byPath := map[string]int{}
	var list []Device
	add := func(devices []Device) error {
		for _, d := range devices {
			if i, known := byPath[d.Path]; known {
				list[i] = d
				continue
			}
			byPath[d.Path] = len(list)
			list = append(list, d)
		}
		if len(list) > maxDevices {
			return errs.New("add device", errs.Invalid, app.Name, fmt.Errorf("more than %d devices", maxDevices))
		}
		return nil
	}
	if app.Security.Privileged {
		found, err := devicesIn("/dev", "/dev", "rwm")
		if err != nil {
			return nil, errs.Wrap("add device", "/dev", err)
		}
		if err := add(found); err != nil {
			return nil, err
		}
	}
	for _, d := range app.Devices {
		found, err := namedDevices(d)
		if err != nil {
			return nil, errs.Wrap("add device", d.HostPath, err)
		}
		if err := add(found); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func namedDevices(d manifest.Device) ([]Device, error) {
	permissions := d.Permissions
	if permissions == "" {
		permissions = "rwm"
	}
	if strings.Trim(permissions, "rwm") != "" {
		return nil, invalid("permissions", "%q are not of rwm", d.Permissions)
	}
	inApp := d.ContainerPath
	if inApp == "" {
		inApp = d.HostPath
	}
	if !filepath.IsAbs(d.HostPath) || !filepath.IsAbs(inApp) {
		return nil, invalid("path", "%q must be absolute, as must be the one on the host", inApp)
	}
	target, err := filepath.EvalSymlinks(d.HostPath)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(target)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		return devicesIn(target, inApp, permissions)
	}
	device, ok := deviceOf(fi)
	if !ok {
		return nil, invalid("file", "it is no device")
	}
	device.Path, device.Permissions = filepath.Clean(inApp), permissions
	return []Device{device}, nil
}

// devicesIn walks dir without following links. What apps have an own instance
// of is left out.
func devicesIn(dir, inApp, permissions string) ([]Device, error) {
	var list []Device
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // unplugged meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{"/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/.udev"}, path) {
				return fs.SkipDir
			}
			return nil
		}
		if entry.Type()&fs.ModeDevice == 0 || path == "/dev/console" || path == "/dev/ptmx" {
			return nil
		}
		fi, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if device, ok := deviceOf(fi); ok {
			device.Path, device.Permissions = filepath.Join(inApp, strings.TrimPrefix(path, dir)), permissions
			list = append(list, device)
		}
		if len(list) > maxDevices {
			return invalid("directory", "there are more than %d devices in it", maxDevices)
		}
		return nil
	})
	return list, err
}

// HostNode finds the node of a device on this host: at the path that it has in
// the app, else where the kernel has put it. A device without one is
// errs.NotFound.
func HostNode(d specs.LinuxDevice) (string, error) {
	if isNode(d.Path, d) {
		return d.Path, nil
	}
	kind := "char"
	if d.Type == "b" {
		kind = "block"
	}
	event, err := os.ReadFile(fmt.Sprintf("/sys/dev/%s/%d:%d/uevent", kind, d.Major, d.Minor))
	for line := range strings.Lines(string(event)) {
		name, found := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME=")
		if path := filepath.Join("/dev", name); found && isNode(path, d) {
			return path, nil
		}
	}
	if err == nil {
		err = errors.New("the host has no node of it")
	}
	return "", errs.New("find device", errs.NotFound, fmt.Sprintf("%s %d:%d", d.Type, d.Major, d.Minor), err)
}

func isNode(path string, want specs.LinuxDevice) bool {
	fi, err := os.Stat(path)
	if err != nil {
		return false
	}
	d, ok := deviceOf(fi)
	return ok && d.Type == want.Type && d.Major == want.Major && d.Minor == want.Minor
}

func deviceOf(fi fs.FileInfo) (Device, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || fi.Mode()&fs.ModeDevice == 0 {
		return Device{}, false
	}
	kind := "b"
	if fi.Mode()&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	rdev := st.Rdev
	return Device{
		Type:  kind,
		Major: int64((rdev>>8)&0xfff | (rdev>>32)&^0xfff),
		Minor: int64(rdev&0xff | (rdev>>12)&0xffffff00),
		Mode:  fi.Mode().Perm(), UID: st.Uid, GID: st.Gid,
	}, true
}

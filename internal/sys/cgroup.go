package sys

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/stagelet/stagelet/internal/errs"
)

// CgroupRoot is where the cgroup hierarchies of a host are mounted.
const CgroupRoot = "/sys/fs/cgroup"

// maxCgroupPath bounds the path of a cgroup, in bytes: with its mount point
// and a file below it, it must fit into PATH_MAX.
const maxCgroupPath = 3072

// Cgroups are the cgroup hierarchies of a host: one unified hierarchy
// (cgroups(7), version 2), or several legacy ones (version 1), beside which a
// unified one without controllers may exist ("hybrid").
//
// Every path is that of a cgroup: absolute, from the mount point of each
// hierarchy, as kubelet's cgroup_parent and the OCI cgroupsPath are.
// A Cgroups holds no descriptor and may be copied.
type Cgroups struct {
	unified string // mount point of the version 2 hierarchy; "" without one
	legacy  []cgroupHierarchy
}

// cgroupHierarchy is one version 1 hierarchy.
type cgroupHierarchy struct {
	mount       string
	controllers []string // "memory"; "name=systemd" for a named one
}

func (h cgroupHierarchy) has(controllers ...string) bool {
	return slices.ContainsFunc(controllers, func(c string) bool { return slices.Contains(h.controllers, c) })
}

// DetectCgroups finds the hierarchies of this host. As the OCI runtimes do,
// it takes the host for a version 2 one when CgroupRoot itself is the unified
// hierarchy. A host with neither is errs.Unsupported.
func DetectCgroups() (Cgroups, error) {
	const op = "detect cgroups"
	var st unix.Statfs_t
	if err := unix.Statfs(CgroupRoot, &st); err != nil {
		return Cgroups{}, errs.New(op, errs.Unsupported, CgroupRoot, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return Cgroups{unified: CgroupRoot}, nil
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Cgroups{}, errs.Wrap(op, "", err)
	}
	c, err := parseCgroupMounts(bytes.NewReader(mounts))
	if err != nil {
		return Cgroups{}, errs.Wrap(op, "", err)
	}
	if len(c.legacy) == 0 {
		return Cgroups{}, errs.New(op, errs.Unsupported, CgroupRoot,
			errors.New("no cgroup hierarchy is mounted; mount cgroup2 there"))
	}
	return c, nil
}

// parseCgroupMounts picks the cgroup mounts out of a mountinfo file
// (proc_pid_mountinfo(5)). Of several mounts of one hierarchy the first below
// CgroupRoot counts.
func parseCgroupMounts(mountinfo io.Reader) (Cgroups, error) {
	var c Cgroups
	lines := bufio.NewScanner(mountinfo)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, found := strings.Cut(lines.Text(), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if !found || len(fields) < 6 || len(super) < 3 {
			continue
		}
		mount := unescapeMount(fields[4])
		if !strings.HasPrefix(mount, CgroupRoot+"/") {
			continue
		}
		switch super[0] {
		case "cgroup2":
			if c.unified == "" {
				c.unified = mount
			}
		case "cgroup":
			h := cgroupHierarchy{mount: mount, controllers: cgroupControllers(super[2])}
			if len(h.controllers) > 0 && c.find(h.controllers...) == "" {
				c.legacy = append(c.legacy, h)
			}
		}
	}
	return c, lines.Err()
}

// cgroupControllers gives the controllers among the super block options of a
// version 1 mount.
func cgroupControllers(options string) []string {
	return slices.DeleteFunc(strings.Split(options, ","), func(o string) bool {
		switch o {
		case "rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "seclabel", "favordynmods", "nofavordynmods":
			return true
		}
		return o == "" || strings.HasPrefix(o, "release_agent=")
	})
}

// unescapeMount undoes mountinfo's octal escapes.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// V2 reports whether the unified hierarchy holds the controllers.
func (c Cgroups) V2() bool { return len(c.legacy) == 0 }

// find gives the mount point of the version 1 hierarchy that holds any of the
// controllers; "" without one.
func (c Cgroups) find(controllers ...string) string {
	for _, h := range c.legacy {
		if h.has(controllers...) {
			return h.mount
		}
	}
	return ""
}

// mounts gives the mount points of all hierarchies.
func (c Cgroups) mounts() []string {
	var all []string
	for _, h := range c.legacy {
		all = append(all, h.mount)
	}
	if c.unified != "" {
		all = append(all, c.unified)
	}
	return all
}

// processMounts gives the mount points of the hierarchies that tell who is in
// a cgroup. The cpu hierarchy is none of them: a supervisor's work must not
// count against its pod's CPU shares.
func (c Cgroups) processMounts() []string {
	var all []string
	for _, h := range c.legacy {
		if h.has("memory", "pids", "freezer", "name=systemd") {
			all = append(all, h.mount)
		}
	}
	if c.unified != "" {
		all = append(all, c.unified)
	}
	return all
}

// CheckCgroupPath tells why path can't be that of a cgroup of ours
// (errs.Invalid): it is not absolute and clean, is the root, or is too long.
func CheckCgroupPath(path string) error {
	var why string
	switch {
	case !strings.HasPrefix(path, "/"):
		why = "is not absolute"
	case path == "/":
		why = "is the root"
	case filepath.Clean(path) != path:
		why = fmt.Sprintf("is not clean, %s is", filepath.Clean(path))
	case len(path) > maxCgroupPath:
		why = fmt.Sprintf("is longer than %d bytes", maxCgroupPath)
	case strings.ContainsAny(path, "\x00\n"):
		why = "holds a zero byte or a line break"
	default:
		return nil
	}
	if len(path) > 256 {
		path = path[:256] + "…"
	}
	return errs.New("check cgroup path", errs.Invalid, strconv.Quote(path), errors.New("the path "+why))
}

package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// sysctlPath gives the file of a sysctl (sysctl(8): dots, or slashes where a
// part of the name has a dot in it).
func sysctlPath(name string) string {
	first := strings.IndexAny(name, "./")
	if first >= 0 && name[first] == '.' {
		// The other separator stands for the dot of an interface's name.
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return name
}

// sysctlAllowed tells why a sysctl can't be the pod's alone.
func sysctlAllowed(name string, ns podNamespaces) error {
	path := sysctlPath(name)
	var mode manifest.NamespaceMode
	var of string
	switch {
	case !filepath.IsLocal(path) || filepath.Clean(path) != path || strings.ContainsAny(name, "\x00\n"):
		return errors.New("is no name of a sysctl")
	case strings.HasPrefix(path, "net/"):
		mode, of = ns.Network, "network"
	case strings.HasPrefix(path, "kernel/shm"), strings.HasPrefix(path, "kernel/msg"), path == "kernel/sem",
		strings.HasPrefix(path, "fs/mqueue/"):
		mode, of = ns.IPC, "IPC"
	case path == "kernel/domainname":
		mode, of = ns.Network, "network" // UTS follows it
	default:
		return errors.New("is not confined to a namespace: set it on the host")
	}
	if mode != manifest.NamespacePod {
		return fmt.Errorf("would be set for the host: the pod has no %s namespace of its own", of)
	}
	return nil
}

// setSysctls sets the pod's sysctls in its namespaces, which are ours. All are
// checked before the first is set. Those of IPC obey none but the root of the
// user namespace that owns them.
func setSysctls(pod *podConfig, root sys.Owner) error {
	const op = "set sysctl"
	names := slices.Sorted(maps.Keys(pod.Sysctls))
	for _, name := range names {
		if err := sysctlAllowed(name, pod.Namespaces); err != nil {
			return errs.New(op, errs.Invalid, fmt.Sprintf("%.256s", name), err)
		}
	}
	for _, name := range names {
		set := func() error { return setSysctl(name, pod.Sysctls[name]) }
		err := set()
		if errors.Is(err, fs.ErrPermission) && pod.Namespaces.User != nil {
			err = sys.As(root.UID, set)
		}
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				err = errors.New("this kernel has none of that name")
			}
			return errs.New(op, errs.Invalid, name+"="+pod.Sysctls[name], err)
		}
	}
	return nil
}

func setSysctl(name, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", sysctlPath(name)), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

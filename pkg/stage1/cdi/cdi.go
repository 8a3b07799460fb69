// Package cdi puts devices of the Container Device Interface into runtime-specs
// (https://github.com/cncf-tags/container-device-interface, SPEC.md): a name
// such as "vendor.com/gpu=0" stands for edits that a vendor's file on this host
// describes. Those files are the administrator's, who can be trusted but errs.
package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"github.com/stagelet/stagelet/internal/errs"
)

// maxFile bounds a vendor's file, in bytes.
const maxFile = 16 << 20

// DefaultDirs are where vendors' files are, the weakest first (SPEC.md).
func DefaultDirs() []string { return []string{cdi.DefaultStaticDir, cdi.DefaultDynamicDir} }

// CheckName wants a fully qualified name, "vendor/class=device"; else
// errs.Invalid.
func CheckName(name string) error {
	if _, _, _, err := parser.ParseQualifiedName(name); err != nil {
		return errs.New("check CDI device", errs.Invalid, fmt.Sprintf("%.120q", name), err)
	}
	return nil
}

// Requested gives the names in the annotations cdi.k8s.io/…, which device
// plugins write, sorted.
func Requested(annotations map[string]string) ([]string, error) {
	var names []string
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !strings.HasPrefix(key, cdi.AnnotationPrefix) {
			continue
		}
		for name := range strings.SplitSeq(annotations[key], ",") {
			if err := CheckName(name); err != nil {
				return nil, errs.Wrap("read annotation", key, err)
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Inject applies to spec what the files in dirs, the weakest first, say of the
// devices of those names. A device that no file knows is errs.NotFound, with
// what is wrong with the files; a file whose edits can't be is errs.Invalid.
func Inject(dirs []string, spec *specs.Spec, names []string) error {
	const op = "inject CDI devices"
	if len(names) == 0 {
		return nil
	}
	if err := checkFiles(dirs); err != nil {
		return errs.Wrap(op, strings.Join(names, ", "), err)
	}
	// Read anew each time: who asks is rare, and a watcher would be for all.
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return errs.New(op, errs.Internal, "", err)
	}
	unknown, err := cache.InjectDevices(spec, names...)
	switch {
	case len(unknown) > 0:
		return errs.New(op, errs.NotFound, strings.Join(unknown, ", "), fmt.Errorf("no file in %s has it%s", strings.Join(dirs, ", "), complaints(cache)))
	case err != nil:
		return errs.New(op, errs.Invalid, strings.Join(names, ", "), err)
	}
	return errs.Wrap(op, strings.Join(names, ", "), check(spec))
}

// checkFiles finds what would make the reading of dirs hang or run out of
// memory.
func checkFiles(dirs []string) error {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if ext := filepath.Ext(path); ext != ".json" && ext != ".yaml" {
				continue
			}
			switch fi, err := os.Stat(path); {
			case err != nil || fi.IsDir(): // the library says, or skips it
			case !fi.Mode().IsRegular():
				return errs.New("read", errs.Invalid, path, errors.New("is no regular file"))
			case fi.Size() > maxFile:
				return errs.New("read", errs.Invalid, path, fmt.Errorf("is longer than %d bytes", maxFile))
			}
		}
	}
	return nil
}

// complaints says what is wrong with files: a device may be in one of them.
func complaints(cache *cdi.Cache) string {
	var b strings.Builder
	all := cache.GetErrors()
	for _, path := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "; %s: %v", path, errors.Join(all[path]...))
	}
	return b.String()
}

// check refuses edits that no runtime can carry out, or that one would pass
// over in silence.
func check(spec *specs.Spec) error {
	for _, m := range spec.Mounts {
		if !filepath.IsAbs(m.Destination) || filepath.Clean(m.Destination) == "/" || strings.ContainsRune(m.Source+m.Destination, 0) {
			return errs.New("mount", errs.Invalid, fmt.Sprintf("%.120q", m.Destination), errors.New("is no path in an app"))
		}
	}
	for _, d := range spec.Linux.Devices {
		if !filepath.IsAbs(d.Path) || strings.ContainsRune(d.Path, 0) {
			return errs.New("make device", errs.Invalid, fmt.Sprintf("%.120q", d.Path), errors.New("is no path in an app"))
		}
	}
	for _, h := range hooks(spec.Hooks) {
		if !filepath.IsAbs(h.Path) {
			return errs.New("run hook", errs.Invalid, fmt.Sprintf("%.120q", h.Path), errors.New("is not an absolute path"))
		}
	}
	if len(spec.Linux.NetDevices) > 0 {
		return errs.New("move network device", errs.Unsupported, "", errors.New("the network of a pod is the matter of CNI plugins"))
	}
	return nil
}

func hooks(h *specs.Hooks) []specs.Hook {
	if h == nil {
		return nil
	}
	//nolint:staticcheck // vendors' files still have prestart hooks
	return slices.Concat(h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop)
}

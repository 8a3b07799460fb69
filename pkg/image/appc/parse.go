package appc

import (
	"errors"
	"fmt"
	"path"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// maxItems bounds each list of a manifest but the whitelist, which may name
// every file of an image.
const maxItems = 1000

// MaxDependencies bounds the dependencies that an image lists itself.
const MaxDependencies = image.MaxLayers

// ParseImageManifest reads the manifest of an image, and checks all of it.
// Fields that it doesn't know are left out (types.md, "AC Version Type": later
// versions add some).
func ParseImageManifest(data []byte) (*ImageManifest, error) {
	const what = "image manifest"
	var m ImageManifest
	if err := image.DecodeDocument(what, data, &m); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, refused(what, err)
	}
	return &m, nil
}

// ParsePodManifest reads the manifest of a pod, like ParseImageManifest. Its
// images may be known by name alone: it is a template then.
func ParsePodManifest(data []byte) (*PodManifest, error) {
	const what = "pod manifest"
	var m PodManifest
	if err := image.DecodeDocument(what, data, &m); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, refused(what, err)
	}
	return &m, nil
}

// refused gives the error of a document the kind of its fault.
func refused(what string, err error) error {
	fault := image.Malformed
	errors.As(err, &fault)
	return errs.New("parse", fault.Kind(), what, err)
}

func checkKind(got, want string) error {
	if got != want {
		return fmt.Errorf("acKind: %w: it is %s, must be %s", image.WrongFormat, image.Printable(got), want)
	}
	return nil
}

func (m *ImageManifest) check() error {
	for i, p := range m.PathWhitelist {
		if err := checkPath(p); err != nil {
			return fmt.Errorf("pathWhitelist: %w", err)
		}
		m.PathWhitelist[i] = path.Clean(p)
	}
	if n := len(m.Dependencies); n > MaxDependencies {
		return fmt.Errorf("dependencies: %w: %d, more than %d", image.TooLarge, n, MaxDependencies)
	}
	return first(
		checkKind(m.Kind, ImageManifestKind), checkVersion(m.Version),
		within("name", CheckIdentifier(m.Name)),
		within("labels", m.Labels.check()), within("labels", checkLabelNames(m.Labels)),
		within("app", m.App.check()),
		each("dependencies", m.Dependencies, Dependency.check),
		within("annotations", m.Annotations.check()),
	)
}

// check checks what a list of labels and one of annotations have in common.
func (all Labels) check() error {
	if err := unique(all, func(l Label) string { return l.Name }); err != nil {
		return err
	}
	for _, l := range all {
		if err := first(CheckIdentifier(l.Name), checkText(l.Value)); err != nil {
			return err
		}
	}
	return nil
}

func checkLabelNames(all Labels) error {
	if _, there := all.Get("name"); there {
		return fmt.Errorf("%w: one can't be called name: the image's name is no label", image.Malformed)
	}
	return nil
}

func (d Dependency) check() error {
	if d.ImageID != "" {
		if _, err := ParseID(d.ImageID); err != nil {
			return fmt.Errorf("imageID: %w", err)
		}
	}
	return first(
		within("imageName", CheckIdentifier(d.ImageName)),
		within("labels", d.Labels.check()), within("labels", checkLabelNames(d.Labels)),
	)
}

// first gives the first error that there is.
func first(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// within says where an error is.
func within(field string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// each checks all of a bounded list.
func each[T any](field string, all []T, check func(T) error) error {
	if len(all) > maxItems {
		return fmt.Errorf("%s: %w: %d, more than %d", field, image.TooLarge, len(all), maxItems)
	}
	for i := range all {
		if err := check(all[i]); err != nil {
			return fmt.Errorf("%s[%d]: %w", field, i, err)
		}
	}
	return nil
}

// unique checks that no two of a bounded list have the same key.
func unique[T any](all []T, key func(T) string) error {
	if len(all) > maxItems {
		return fmt.Errorf("%w: %d, more than %d", image.TooLarge, len(all), maxItems)
	}
	seen := map[string]bool{}
	for _, one := range all {
		k := key(one)
		if seen[k] {
			return fmt.Errorf("%w: %s", image.Unrepeatable, image.Printable(k))
		}
		seen[k] = true
	}
	return nil
}

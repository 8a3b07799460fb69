package discovery

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
)

// App is an image as somebody asks for it.
type App struct {
	Name   string // an AC identifier
	Labels appc.Labels
}

// The labels that templates know, and that have a value in every App.
const (
	labelVersion = "version"
	labelOS      = "os"
	labelArch    = "arch"
)

// Latest is the version that is meant when nobody says one.
const Latest = "latest"

// maxLabels bounds the labels of a name.
const maxLabels = 32

// ParseApp reads a name as people write it: "example.com/app:v1,os=linux".
// The version, the operating system and the architecture that it doesn't say
// are the latest, and those of this machine.
func ParseApp(s string) (App, error) {
	const op = "read name"
	if len(s) > image.MaxReference {
		return App{}, image.Refuse(op, image.TooLarge, s, "longer than %d bytes", image.MaxReference)
	}
	head, rest, _ := strings.Cut(s, ",")
	name, tag, tagged := strings.Cut(head, ":")
	if err := appc.CheckIdentifier(name); err != nil {
		return App{}, errs.New(op, errs.Invalid, image.Printable(s), err)
	}
	a := App{Name: name}
	if strings.Contains(tag, "/") {
		return App{}, errs.New(op, errs.Invalid, image.Printable(s), errors.New("the name of an AppC image has no port"))
	}
	if tagged {
		a.Labels = append(a.Labels, appc.Label{Name: labelVersion, Value: tag})
	}
	for rest != "" {
		var pair string
		pair, rest, _ = strings.Cut(rest, ",")
		label, value, ok := strings.Cut(pair, "=")
		if _, twice := a.Labels.Get(label); !ok || twice || len(a.Labels) >= maxLabels || appc.CheckIdentifier(label) != nil {
			return App{}, errs.New(op, errs.Invalid, image.Printable(s), fmt.Errorf("%s must be label=value, each label once", image.Printable(pair)))
		}
		a.Labels = append(a.Labels, appc.Label{Name: label, Value: value})
	}
	for _, l := range a.Labels {
		if l.Value == "" {
			return App{}, errs.New(op, errs.Invalid, image.Printable(s), errors.New(l.Name+" is empty"))
		}
	}
	return a.WithDefaults(), nil
}

// WithDefaults gives the app with the labels that it lacks.
func (a App) WithDefaults() App {
	labels := append(appc.Labels(nil), a.Labels...)
	for _, l := range hostLabels() {
		if _, there := labels.Get(l.Name); !there {
			labels = append(labels, l)
		}
	}
	return App{a.Name, labels}
}

// Version is the one that is asked for.
func (a App) Version() string {
	v, _ := a.Labels.Get(labelVersion)
	return v
}

// Asked are the labels that an image has to have: no image is of the latest
// version by its own word.
func (a App) Asked() (asked appc.Labels) {
	for _, l := range a.Labels {
		if l.Name != labelVersion || l.Value != Latest {
			asked = append(asked, l)
		}
	}
	return asked
}

// Ref is what the image is called in a store: of its labels, it has the
// version.
func (a App) Ref() (image.Ref, error) {
	ref, err := image.ParseTag(a.Name + ":" + strings.ReplaceAll(a.Version(), "+", "_")) // as appc.Import does
	if err == nil && ref.Repository() != a.Name {
		err = fmt.Errorf("%w: it would be called %s here; a host and a path are needed, as example.com/app has them", image.BadReference, ref.Repository())
	}
	if err != nil {
		return image.Ref{}, errs.New("read name", errs.Invalid, image.Printable(a.String()), err)
	}
	return ref, nil
}

// String gives "example.com/app:v1".
func (a App) String() string { return a.Name + ":" + a.Version() }

// hostLabels are those of this machine (discovery.md; the architectures are
// those of types.md, "os" and "arch").
func hostLabels() appc.Labels {
	arch := runtime.GOARCH
	switch arch {
	case "386":
		arch = "i386"
	case "arm64":
		arch = "aarch64"
	case "arm":
		arch = "armv7l"
	}
	return appc.Labels{{Name: labelVersion, Value: Latest}, {Name: labelOS, Value: "linux"}, {Name: labelArch, Value: arch}}
}

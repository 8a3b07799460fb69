// Package podflags is the command line of a pod: its flags, its images with
// their own flags and arguments, and the plan that they make.
package podflags

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/stagelet/stagelet/internal/errs"
)

// Separators of the command line, as in rkt: argsMark begins the arguments of
// an app, appMark the next app.
const (
	argsMark = "--"
	appMark  = "---"
)

// Flags are the flags of a pod, and those of its apps before the first image,
// which count for all apps.
type Flags struct {
	Pod
	all App
	set *pflag.FlagSet
}

// Register defines the flags of a pod and of its apps.
func Register(set *pflag.FlagSet) *Flags {
	f := &Flags{set: set}
	set.SetInterspersed(false) // what stands behind an image is that app's
	f.register(set)
	f.all.register(set)
	return f
}

// ForImages gives those of the flags on the command line that are for pods
// whose images stand on it, and not in a file.
func (f *Flags) ForImages() (given []string) {
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&Pod{}).register(own)
	(&App{}).register(own)
	f.set.Visit(func(flag *pflag.Flag) {
		if own.Lookup(flag.Name) != nil && !slices.Contains([]string{"pod-name", "stage1", "stage1-name", "private-users"}, flag.Name) {
			given = append(given, "--"+flag.Name)
		}
	})
	return given
}

// Apps reads what stands behind the flags: images, each with flags of its own
// and arguments. Flags of the pod may stand there, too. No images: none.
func (f *Flags) Apps(args []string) ([]App, error) {
	var apps []App
	for i, segment := range split(args) {
		if len(segment) == 0 && i == 0 && len(args) == 0 {
			break
		}
		more, err := f.segment(segment)
		if err != nil {
			return nil, err
		}
		apps = append(apps, more...)
	}
	return apps, nil
}

// split cuts at appMark.
func split(args []string) (segments [][]string) {
	var segment []string
	for _, a := range args {
		if a == appMark {
			segments, segment = append(segments, segment), nil
			continue
		}
		segment = append(segment, a)
	}
	return append(segments, segment)
}

// segment reads images and their flags; arguments are the last one's.
func (f *Flags) segment(args []string) (apps []App, err error) {
	if len(args) == 0 || args[0] == argsMark {
		return nil, usage("an image is missing before %q", strings.Join(append(args, appMark)[:1], ""))
	}
	for len(args) > 0 && args[0] != argsMark {
		app := f.all.clone()
		app.Image = args[0]
		if args, err = f.parse(&app, args[1:]); err != nil {
			return nil, errs.Wrap("read flags of image", app.Image, err)
		}
		apps = append(apps, app)
	}
	if len(args) > 0 {
		apps[len(apps)-1].Args = args[1:]
	}
	return apps, nil
}

// parse reads the flags of an app, and gives what follows them.
func (f *Flags) parse(app *App, args []string) (rest []string, err error) {
	set := pflag.NewFlagSet(app.Image, pflag.ContinueOnError)
	set.SetInterspersed(false)
	set.Usage = func() {}
	app.register(set)
	set.AddFlagSet(f.set) // the pod's: those of apps are there already
	if err := set.Parse(args); err != nil {
		return nil, errs.New("parse", errs.Invalid, "", err)
	}
	rest = set.Args()
	if set.ArgsLenAtDash() == 0 { // the mark was swallowed
		rest = append([]string{argsMark}, rest...)
	}
	return rest, nil
}

func usage(format string, args ...any) error {
	return errs.New("read command line", errs.Invalid, "", fmt.Errorf(format, args...))
}

func invalid(flag, format string, args ...any) error {
	return errs.New("check flags", errs.Invalid, "--"+flag, fmt.Errorf(format, args...))
}

// list is a flag that may be repeated; each time adds to it.
type list struct {
	values *[]string
	kind   string
}

// Set is pflag.Value's.
func (l list) Set(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	*l.values = append(*l.values, s)
	return nil
}

func (l list) String() string { return "" }

// Type is what help calls a value.
func (l list) Type() string { return l.kind }

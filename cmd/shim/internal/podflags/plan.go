package podflags

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/podfile"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// Image is what a plan needs to know of an app's image.
type Image struct {
	ID       string
	Name     string              // what rules are found by; the id where it has none
	Manifest *appc.ImageManifest // of an appc image; nil for others
}

// Host is what a plan needs to know of the host.
type Host struct {
	Handlers    []string                 // that isolate pods; "" is the default one
	Network     string                   // name of the configured network; "" when there is none
	AppArmor    string                   // profile of apps; "" for none
	Users       []manifest.UserNamespace // of the pods that there are
	Environment []string                 // of the command itself
}

// Check finds what of a command line can't be, before any image is there:
// errs.Invalid.
func (f *Flags) Check(apps []App, host Host) error {
	_, _, err := f.plan(apps, make([]Image, len(apps)), nil, host)
	return err
}

// Plan gives the pod that the command line asks for, and what of its images'
// wishes isn't honoured. images has one for each of apps. What can't be is
// errs.Invalid.
func (f *Flags) Plan(apps []App, images []Image, host Host) (stage0.Plan, []podfile.Note, error) {
	said := make([]*appc.App, len(images))
	for i, image := range images {
		said[i] = &appc.App{}
		if image.Manifest != nil && image.Manifest.App != nil {
			said[i] = image.Manifest.App
		}
	}
	return f.plan(apps, images, said, host)
}

// plan makes the pod; said is what images say of their apps, nil when that
// isn't known.
func (f *Flags) plan(apps []App, images []Image, said []*appc.App, host Host) (plan stage0.Plan, notes []podfile.Note, err error) {
	plan.Pod = manifest.Pod{Creator: manifest.CreatorCLI, UID: pod.NewID(), EndsWithApps: true}
	if err := f.fill(&plan.Pod, host); err != nil {
		return plan, nil, err
	}
	if plan.Pod.Namespaces.User, err = f.Users(host.Users); err != nil {
		return plan, nil, err
	}
	if plan.Pod.Ports, err = f.portMappings(said); err != nil {
		return plan, nil, err
	}
	all, err := volumes(apps)
	if err != nil {
		return plan, nil, err
	}
	var used []string
	names := map[string]bool{}
	for i, a := range apps {
		r, err := a.request(images[i], host)
		if err != nil {
			return plan, nil, err
		}
		r.App.Name = freeName(r.App.Name, a.name, names)
		mounted, err := a.mountAll(&plan.Pod, &r, all)
		if err != nil {
			return plan, nil, err
		}
		told, err := podfile.ImageDefaults(images[i].Manifest, all, &plan.Pod, &r)
		if err != nil {
			return plan, nil, err
		}
		notes, used = append(notes, told...), append(used, mounted...)
		plan.Apps = append(plan.Apps, r)
	}
	if said != nil {
		if err := allUsed(all, append(used, expected(said)...)); err != nil {
			return plan, nil, err
		}
	}
	if len(plan.Apps) > 0 {
		plan.Pod.Name = cmp.Or(plan.Pod.Name, plan.Apps[0].App.Name)
	}
	return plan, notes, plan.Check()
}

// expected names the volumes that images have a place for.
func expected(said []*appc.App) (names []string) {
	for _, a := range said {
		for _, p := range a.MountPoints {
			names = append(names, p.Name)
		}
	}
	return names
}

func allUsed(all []appc.Volume, used []string) error {
	for _, v := range all {
		if !slices.Contains(used, v.Name) {
			return invalid("volume", "no app has the volume %q: say where, with --mount volume=%s,target=PATH", v.Name, v.Name)
		}
	}
	return nil
}

func (a *App) request(image Image, host Host) (r stage0.AppRequest, err error) {
	r = stage0.AppRequest{Image: image.ID, ImageName: image.Name, Args: a.Args, Cwd: a.cwd, StopSignal: a.stopSignal}
	r.App.Name = cmp.Or(a.name, nameOf(image.Name))
	r.App.PID = manifest.PIDNamespace{Mode: manifest.NamespacePod}
	if a.exec != "" {
		r.Command = []string{a.exec}
	}
	if a.cwd != "" && !strings.HasPrefix(a.cwd, "/") {
		return r, invalid("working-dir", "%.120q is no absolute path", a.cwd)
	}
	if _, err := stage0.ParseSignal(a.stopSignal); err != nil {
		return r, invalid("stop-signal", "%v", err)
	}
	if r.Env, err = a.environment(host.Environment); err != nil {
		return r, err
	}
	if r.User, err = a.userOf(); err != nil {
		return r, err
	}
	if r.App.Resources, err = a.resources(); err != nil {
		return r, err
	}
	if err := a.confine(&r, host.AppArmor); err != nil {
		return r, err
	}
	if r.App.Annotations, err = pairs("user-annotation", a.annotations); err != nil {
		return r, err
	}
	r.App.Labels, err = pairs("user-label", a.labels)
	return r, err
}

// maxName is the length of an app's name that is made of its image's.
const maxName = 40

// nameOf makes the name of an app of its image's: "example.com/web:v1" is
// web's.
func nameOf(image string) string {
	const nameless = "app"
	if strings.HasPrefix(image, "sha256:") || strings.HasPrefix(image, "sha512") {
		return nameless
	}
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndexByte(image, '/')+1:]
	image, _, _ = strings.Cut(image, ":")
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, image)
	name = strings.Trim(name[:min(len(name), maxName)], "-")
	return cmp.Or(name, nameless)
}

// freeName tells apps of one image apart; a name that was given stays.
func freeName(name, given string, taken map[string]bool) string {
	free := name
	for n := 2; given == "" && taken[free]; n++ {
		free = fmt.Sprintf("%s-%d", name, n)
	}
	taken[free] = true
	return free
}

package podflags

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// Image is what a plan needs to know of an app's image.
type Image struct {
	ID   string
	Name string // what rules are found by; the id where it has none
	// Ports and MountPoints are what an appc image says by name: ports that it
	// listens on, and the paths where it expects volumes.
	Ports       map[string]Port
	MountPoints map[string]string
}

// Host is what a plan needs to know of the host.
type Host struct {
	Networks    Networks
	AppArmor    string                   // profile of apps; "" for none
	Users       []manifest.UserNamespace // of the pods that there are
	Environment []string                 // of the command itself
}

// Check finds what of a command line can't be, before any image is there:
// errs.Invalid.
func (f *Flags) Check(apps []App, host Host) error {
	_, err := f.Plan(apps, nil, host)
	return err
}

// Plan gives the pod that the command line asks for. images has one for each
// of apps. What can't be is errs.Invalid.
func (f *Flags) Plan(apps []App, images []Image, host Host) (plan stage0.Plan, err error) {
	var ports map[string]Port // nil: not known yet
	if images == nil {
		images = make([]Image, len(apps))
	} else {
		ports = map[string]Port{}
	}
	for _, i := range images {
		maps.Copy(ports, i.Ports)
	}
	plan.Pod = manifest.Pod{Creator: manifest.CreatorCLI, UID: pod.NewID(), EndsWithApps: true}
	if err := f.fill(&plan.Pod, host.Networks); err != nil {
		return plan, err
	}
	if plan.Pod.Namespaces.User, err = f.users(host.Users); err != nil {
		return plan, err
	}
	if plan.Pod.Ports, err = f.portMappings(plan.Pod.Namespaces.Network, ports); err != nil {
		return plan, err
	}
	all, err := volumes(apps)
	if err != nil {
		return plan, err
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if v := all[name]; v.source == "" {
			plan.Pod.Volumes = append(plan.Pod.Volumes, v.empty)
		}
	}
	used := map[string]bool{}
	names := map[string]bool{}
	for i, a := range apps {
		r, err := a.request(images[i], all, used, host)
		if err != nil {
			return plan, err
		}
		r.App.Name = freeName(r.App.Name, a.name, names)
		plan.Apps = append(plan.Apps, r)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !used[name] && ports != nil {
			return plan, invalid("volume", "no app has the volume %q: say where, with --mount volume=%s,target=PATH", name, name)
		}
	}
	if len(plan.Apps) > 0 {
		plan.Pod.Name = cmp.Or(plan.Pod.Name, plan.Apps[0].App.Name)
	}
	return plan, plan.Check()
}

func (a *App) request(image Image, pod map[string]volume, used map[string]bool, host Host) (r stage0.AppRequest, err error) {
	r = stage0.AppRequest{Image: image.ID, ImageName: image.Name, Args: a.Args, Cwd: a.cwd, StopSignal: a.stopSignal}
	r.App.Name = cmp.Or(a.name, nameOf(image.Name))
	r.App.PID = manifest.PIDNamespace{Mode: manifest.NamespaceApp}
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
	if r.App.Labels, err = pairs("user-label", a.labels); err != nil {
		return r, err
	}
	return r, a.mountAll(&r, pod, image.MountPoints, used)
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

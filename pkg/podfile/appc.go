package podfile

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/pkg/cri"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage0"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// appcReader makes a plan of an appc pod manifest (pods.md).
type appcReader struct {
	m     *appc.PodManifest
	plan  stage0.Plan
	notes []Note
	apps  []*appc.App // of the plan's apps, the image's where the pod says nothing
}

func readAppc(ctx context.Context, data []byte, o Options) (*File, error) {
	var kind struct {
		ACKind string `json:"acKind"`
	}
	if err := json.Unmarshal(data, &kind); err == nil && kind.ACKind == appc.ImageManifestKind {
		return nil, invalid("acKind", "it is the manifest of an image, not of a pod: run the image itself")
	}
	m, err := appc.ParsePodManifest(data)
	if err != nil {
		return nil, err
	}
	r := &appcReader{m: m}
	r.plan.Pod = manifest.Pod{
		Name: m.Apps[0].Name, Namespace: "default", Handler: o.Handler,
		Namespaces: manifest.Namespaces{Network: manifest.NamespacePod, IPC: manifest.NamespacePod, PID: manifest.NamespacePod},
		Labels:     m.UserLabels, Annotations: annotations(m.Annotations, m.UserAnnotations),
	}
	if err := r.isolate("isolators", m.Isolators); err != nil {
		return nil, err
	}
	for i := range m.Apps {
		if err := r.app(ctx, at("apps", i), &m.Apps[i], o); err != nil {
			return nil, err
		}
	}
	if r.plan.Pod.Ports, err = Expose(m.Ports, r.apps); err != nil {
		return nil, err
	}
	return &File{Plan: r.plan, Notes: r.notes}, nil
}

func annotations(all appc.Annotations, user map[string]string) map[string]string {
	merged := map[string]string{}
	for name, value := range user {
		merged[name] = value
	}
	for _, a := range all {
		merged[a.Name] = a.Value
	}
	if len(merged) == 0 {
		return nil
	}
	return merged
}

func (r *appcReader) app(ctx context.Context, path string, ra *appc.RuntimeApp, o Options) error {
	image := imageOf(ra.Image)
	app := stage0.AppRequest{Image: image, ImageName: nameOf(ra.Image)}
	app.App.Name = ra.Name
	app.App.Annotations = annotations(ra.Annotations, nil)
	app.App.Rootfs.ReadOnly = ra.ReadOnlyRootFS
	app.App.PID.Mode = r.plan.Pod.Namespaces.PID
	app.App.Security = DefaultSecurity()

	var im *appc.ImageManifest
	var err error
	if o.Manifest != nil {
		if im, err = o.Manifest(ctx, &app); err != nil {
			return err
		}
	}
	t := translation{pod: &r.plan.Pod, app: &app, said: app, mounts: ra.Mounts, volumes: r.m.Volumes}
	switch {
	case ra.App != nil:
		t.path = path + ".app"
		err = t.override(ra.App)
		r.apps = append(r.apps, ra.App)
	case im != nil && im.App != nil:
		t.path, t.ofImage = path+".image.app", true
		err = t.translate(im.App)
		r.apps = append(r.apps, im.App)
	default:
		t.path = path
		err = t.translate(&appc.App{})
	}
	r.notes = append(r.notes, t.notes...)
	r.plan.Apps = append(r.plan.Apps, app)
	return err
}

// imageOf gives what an image is found by: its id, which is the truth, or its
// name, as the command line has it.
func imageOf(i appc.RuntimeImage) string {
	if i.ID != "" {
		return i.ID
	}
	return nameOf(i)
}

// nameOf spells a name with its labels: "appc://example.com/app:v1,os=linux".
func nameOf(i appc.RuntimeImage) string {
	if i.Name == "" {
		return ""
	}
	var b strings.Builder
	b.WriteString("appc://" + i.Name)
	if version, has := i.Labels.Get("version"); has {
		b.WriteString(":" + version)
	}
	for _, l := range i.Labels {
		if l.Name != "version" {
			b.WriteString("," + l.Name + "=" + l.Value)
		}
	}
	return b.String()
}

// DefaultSecurity is how an app is confined that nothing is said of: the
// default filter of system calls and profile of AppArmor, nothing of the host in
// /proc and /sys.
func DefaultSecurity() manifest.Security {
	return manifest.Security{
		Seccomp: &manifest.Seccomp{}, AppArmor: cri.DefaultAppArmor(),
		MaskedPaths: ocispec.DefaultMaskedPaths(), ReadOnlyPaths: ocispec.DefaultReadOnlyPaths(),
	}
}

// ImageDefaults brings into a plan what an appc image says of its app and its
// OCI configuration has no word for: mount points, groups, isolators. Pod and
// app are the plan's, and hold already what the person asks for, which is the
// stronger word for what has one value. Mount points are fulfilled by the
// volumes of their names, or those that are mounted there; by an empty one of
// the pod's where there is none. An image can take from its app what the
// defaults give, and add nothing to it.
func ImageDefaults(m *appc.ImageManifest, volumes []appc.Volume, pod *manifest.Pod, app *stage0.AppRequest) ([]Note, error) {
	if m == nil || m.App == nil {
		return nil, nil
	}
	t := translation{path: m.Name, pod: pod, app: app, said: *app, volumes: volumes, ofImage: true}
	err := t.translate(m.App)
	return t.notes, err
}

// Expose gives the ports of the host that lead to ports of apps, by their
// names (pods.md, "ports"). Several in a row lead to as many.
func Expose(exposed []appc.ExposedPort, apps []*appc.App) ([]manifest.PortMapping, error) {
	var all []manifest.PortMapping
	for i, e := range exposed {
		path := at("ports", i)
		p := e.PodPort
		for _, a := range apps {
			for j := range a.Ports {
				if p == nil && a.Ports[j].Name == e.Name {
					p = &a.Ports[j]
				}
			}
		}
		if p == nil {
			return nil, invalid(path+".name", "no app has a port %.80q", e.Name)
		}
		protocol := strings.ToLower(p.Protocol)
		if !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
			return nil, unsupported(path, "port %.80q is of %.80q, none of tcp, udp and sctp", e.Name, p.Protocol)
		}
		count := max(1, p.Count)
		if count > maxPorts || len(all)+int(count) > maxPorts {
			return nil, invalid(path, "more than %d ports of the host", maxPorts)
		}
		if e.HostPort+count-1 > maxPort || p.Port+count-1 > maxPort {
			return nil, invalid(path, "%d ports from %d on end behind %d", count, e.HostPort, maxPort)
		}
		for n := range int32(count) {
			all = append(all, manifest.PortMapping{
				Protocol: protocol, HostPort: int32(e.HostPort) + n, PodPort: int32(p.Port) + n, HostIP: e.HostIP,
			})
		}
	}
	return all, nil
}

// The last port, and how many of the host a pod can have.
const (
	maxPort  = 65535
	maxPorts = 1000
)

// isolate applies the isolators of a whole pod.
func (r *appcReader) isolate(path string, all []appc.Isolator) error {
	for i, isolator := range all {
		path := at(path, i)
		switch isolator.Name {
		case "os/unix/sysctl":
			var values map[string]string
			if err := decode(path+".value", isolator.Value, &values); err != nil {
				return err
			}
			if r.plan.Pod.Sysctls != nil {
				return invalid(path, "a pod has one os/unix/sysctl at most")
			}
			admitted, err := cri.Sysctls(path+".value", values, r.plan.Pod.Namespaces)
			if err != nil {
				return err
			}
			r.plan.Pod.Sysctls = admitted
		default:
			r.notes = append(r.notes, Note{path, isolator.Name + " is " + notHonoured + ": limits are each app's"})
		}
	}
	return nil
}

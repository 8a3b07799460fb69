package stage0

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/nri"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/cdi"
	"github.com/stagelet/stagelet/pkg/stage1/ocispec"
)

// adjustedSpec gives the OCI configuration of an app after plugins had their
// say, which may also change the app.
func (e *Engine) adjustedSpec(ctx context.Context, p *pod.Snapshot, app *manifest.App) ([]byte, error) {
	spec, err := e.spec(p, app)
	if err != nil {
		return nil, err
	}
	before := *app // plugins may read it later than this
	change, err := e.Plugins.Create(ctx, pluginPod(p), nri.App{App: &before, Spec: spec})
	if err != nil {
		return nil, err
	}
	if change != nil {
		if err := change.App(app); err != nil {
			return nil, err
		}
		if spec, err = e.spec(p, app); err != nil {
			return nil, errs.Wrap("adjust as NRI plugins want", app.Name, err)
		}
		change.Spec(spec)
	}
	return ocispec.Encode(spec)
}

// spec gives the OCI configuration of an app: what the pure translation needs
// of this host and of the running pod is gathered here. Mounts that come with
// devices are added to the app, anew each time.
func (e *Engine) spec(p *pod.Snapshot, app *manifest.App) (*specs.Spec, error) {
	app.Mounts = slices.DeleteFunc(slices.Clone(app.Mounts), func(m manifest.Mount) bool { return m.Injected })
	in := ocispec.Input{
		Pod: p.Pod, App: app, Host: e.host, Namespaces: p.Namespaces,
		Dir: e.pods.Dir(pod.PhaseRun, p.Pod.ID), RunDir: e.pods.RunDir(p.Pod.ID),
		EtcFiles: []string{"hostname", "hosts", "resolv.conf"}, Ulimits: e.Ulimits,
	}
	var err error
	if in.Hostname, err = hostnameOf(p.Pod); err != nil {
		return nil, err
	}
	if app.PID.Mode == manifest.NamespaceTarget {
		target, ok := p.App(app.PID.Target)
		if !ok || target.Status.State != manifest.AppRunning {
			return nil, errs.New("join PID namespace", errs.Precondition, fmt.Sprintf("%.80q", app.PID.Target), errors.New("no such app runs in this pod"))
		}
		in.TargetPID = target.Status.PID
	}
	if in.Devices, err = ocispec.AppDevices(app); err != nil {
		return nil, err
	}
	if err := e.profiles.need(app.Security.AppArmor); err != nil {
		return nil, err
	}
	if s := app.Security.Seccomp; s != nil && s.Localhost != "" && s.Profile == nil {
		if in.SeccompProfile, err = readProfile(s.Localhost); err != nil {
			return nil, err
		}
	}
	spec, err := ocispec.Generate(in)
	if err != nil {
		return nil, err
	}
	generated := slices.Clone(spec.Mounts)
	if err := cdi.Inject(e.CDIDirs, spec, app.CDIDevices); err != nil {
		return nil, err
	}
	if p.Pod.Namespaces.User != nil {
		if err := ocispec.BindDevices(spec, ocispec.HostNode); err != nil {
			return nil, err
		}
	}
	ocispec.Adopt(spec, generated, app, in.RunDir, p.Pod.Namespaces.User)
	return spec, nil
}

// confine fills the capabilities of an app from what was asked for.
func (e *Engine) confine(app *manifest.App, r AppRequest) (err error) {
	s := &app.Security
	if s.Privileged {
		s.Capabilities = e.host.Capabilities
		return nil
	}
	s.Capabilities, err = ocispec.ResolveCapabilities(ocispec.CapabilityRequest{
		Add: append(append([]string(nil), r.AddCapabilities...), r.AmbientCapabilities...), Drop: r.DropCapabilities,
	}, e.host.Capabilities)
	if err != nil {
		return err
	}
	s.Ambient, err = ocispec.CapabilityNames(r.AmbientCapabilities, e.host.Capabilities)
	return err
}

// maxProfile bounds a seccomp profile, in bytes.
const maxProfile = 4 << 20

func readProfile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.Wrap("read seccomp profile", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err == nil && len(data) > maxProfile {
		err = errs.New("read", errs.Exhausted, "", fmt.Errorf("it is larger than %d bytes", maxProfile))
	}
	return data, errs.Wrap("read seccomp profile", path, err)
}

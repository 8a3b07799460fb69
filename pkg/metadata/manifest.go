package metadata

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func annotations(all map[string]string) appc.Annotations {
	var list appc.Annotations
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, appc.Label{Name: name, Value: all[name]})
	}
	return list
}

// podManifest tells what runs, in appc's form: images by their ids, volumes
// that are mounted, commands as they are.
func (s *Service) podManifest(p *pod.Snapshot, _ *http.Request) (string, []byte, error) {
	m := appc.PodManifest{
		Version: appc.SpecVersion, Kind: appc.PodManifestKind, Apps: []appc.RuntimeApp{},
		Annotations: annotations(p.Pod.Annotations), UserLabels: p.Pod.Labels,
	}
	for _, v := range p.Pod.Volumes {
		m.Volumes = append(m.Volumes, appc.Volume{
			Name: v.Name, Kind: appc.VolumeEmpty, Mode: strconv.FormatUint(uint64(v.Permissions()), 8), UID: number(v.UID), GID: number(v.GID),
		})
	}
	for _, port := range p.Pod.Ports {
		m.Ports = append(m.Ports, appc.ExposedPort{
			Name: portName(port), HostPort: uint(port.HostPort), HostIP: port.HostIP,
			PodPort: &appc.Port{Name: portName(port), Protocol: port.Protocol, Port: uint(port.PodPort), Count: 1},
		})
	}
	for _, a := range p.Apps {
		m.Apps = append(m.Apps, s.runtimeApp(a.App))
	}
	return inJSON(m)
}

func number(id uint32) *int {
	n := int(id)
	return &n
}

func portName(p manifest.PortMapping) string {
	return p.Protocol + "-" + strconv.Itoa(int(p.HostPort))
}

func (s *Service) runtimeApp(a *manifest.App) appc.RuntimeApp {
	app := &appc.App{
		Exec: a.Args, User: strconv.FormatUint(uint64(a.User.UID), 10), Group: strconv.FormatUint(uint64(a.User.GID), 10), WorkingDirectory: a.Cwd,
	}
	for _, gid := range a.User.AdditionalGIDs {
		app.SupplementaryGIDs = append(app.SupplementaryGIDs, int(gid))
	}
	for _, variable := range a.Env {
		name, value, _ := strings.Cut(variable, "=")
		app.Environment = append(app.Environment, appc.EnvironmentVariable{Name: name, Value: value})
	}
	return appc.RuntimeApp{
		Name: a.Name, Image: appc.RuntimeImage{ID: s.idOf(a), Name: s.nameOf(a)}, App: app,
		ReadOnlyRootFS: a.Rootfs.ReadOnly, Annotations: annotations(a.Annotations),
	}
}

// idOf gives the id of an app's image: the ACI's, if it was one.
func (s *Service) idOf(a *manifest.App) string {
	if r, err := s.imageOf(a); err == nil && r.AppC != nil {
		return image.FileName(r.AppC.ID)
	}
	return a.Image.ID
}

// nameOf gives the name of an app's image, if that is an ACI.
func (s *Service) nameOf(a *manifest.App) string {
	m, _, err := s.manifestOf(a)
	if err != nil {
		return ""
	}
	return m.Name
}

// imageOf gives the image of an app, which has leased it: it may have been
// removed meanwhile.
func (s *Service) imageOf(a *manifest.App) (*image.Record, error) {
	return s.Images.Leased(a.ID, image.Digest(a.Image.ID))
}

func (s *Service) manifestOf(a *manifest.App) (*appc.ImageManifest, []byte, error) {
	r, err := s.imageOf(a)
	if err != nil {
		return nil, nil, err
	}
	data, err := s.Images.AppCManifest(r)
	if err != nil {
		return nil, nil, err
	}
	var m appc.ImageManifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, nil, errs.New("read image manifest", errs.Corrupt, a.Image.ID, err)
	}
	return &m, data, nil
}

func appOf(p *pod.Snapshot, r *http.Request) (*manifest.App, error) {
	name := r.PathValue("app")
	for _, a := range p.Apps {
		if a.Name == name {
			return a.App, nil
		}
	}
	return nil, errs.New("find app", errs.NotFound, name, errors.New("the pod has no such app"))
}

// appAnnotations are the image's, and over them the app's own.
func (s *Service) appAnnotations(p *pod.Snapshot, r *http.Request) (string, []byte, error) {
	a, err := appOf(p, r)
	if err != nil {
		return "", nil, err
	}
	merged := map[string]string{}
	m, _, err := s.manifestOf(a)
	switch {
	case err == nil:
		for _, l := range m.Annotations {
			merged[l.Name] = l.Value
		}
	case !errors.Is(err, errs.NotFound): // else it was no ACI
		return "", nil, err
	}
	maps.Copy(merged, a.Annotations)
	return annotationsOr(r, annotations(merged))
}

// imageManifest gives the bytes of the ACI's manifest; other images have none.
func (s *Service) imageManifest(p *pod.Snapshot, r *http.Request) (string, []byte, error) {
	a, err := appOf(p, r)
	if err != nil {
		return "", nil, err
	}
	_, data, err := s.manifestOf(a)
	return jsonContent, data, err
}

func (s *Service) imageID(p *pod.Snapshot, r *http.Request) (string, []byte, error) {
	a, err := appOf(p, r)
	if err != nil {
		return "", nil, err
	}
	return text, []byte(s.idOf(a)), nil
}

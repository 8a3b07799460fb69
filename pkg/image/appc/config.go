package appc

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// The labels of an image that mean something by themselves (aci.md, "labels").
const (
	labelVersion = "version"
	labelOS      = "os"
	labelArch    = "arch"
)

// The annotations that OCI knows too, by another name.
func annotationNames() map[string]string {
	return map[string]string{
		"created": v1.AnnotationCreated, "authors": v1.AnnotationAuthors,
		"homepage": v1.AnnotationURL, "documentation": v1.AnnotationDocumentation,
	}
}

// config makes the OCI configuration of an image that was made from the ACI,
// with these trees. Its digest is the image's id; it names the ACI, so that two
// of them never are one image.
func (a *aci) config(ctx context.Context, host v1.Platform, trees []tree) ([]byte, error) {
	m := a.manifest
	c := v1.Image{Platform: platform(m.Labels, host), RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	for _, t := range trees {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, t.diffID)
	}
	if text, there := m.Annotations.Get("created"); there {
		created, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, image.Refuse(op, image.Malformed, "annotation created", "%s is no date", image.Printable(text))
		}
		c.Created = &created
	}
	c.Author, _ = m.Annotations.Get("authors")
	c.Config.Labels = labels(m)
	c.Config.Labels[image.LabelAppCID] = FormatID(a.id)
	c.Config.Labels[image.LabelAppCManifest] = string(digest.FromBytes(a.document))
	if m.App != nil {
		if err := m.App.configure(ctx, &c.Config, trees); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(c)
	return data, errs.Wrap(op, m.Name, err)
}

// labels gives the labels and annotations of an image as labels of its
// configuration.
func labels(m *ImageManifest) map[string]string {
	known := annotationNames()
	all := map[string]string{}
	for _, a := range m.Annotations {
		name := a.Name
		if other, is := known[name]; is {
			name = other
		}
		all[name] = a.Value
	}
	for _, l := range m.Labels {
		switch l.Name {
		case labelOS, labelArch:
		case labelVersion:
			all[v1.AnnotationVersion] = l.Value
		default:
			all[l.Name] = l.Value
		}
	}
	return all
}

// platform gives what an image is for. One that doesn't say is for any, and so
// for this host.
func platform(all Labels, host v1.Platform) v1.Platform {
	os, said := all.Get(labelOS)
	if !said {
		return host
	}
	p := v1.Platform{OS: os, Architecture: host.Architecture, Variant: host.Variant}
	arch, said := all.Get(labelArch)
	if !said {
		return p
	}
	p.Architecture, p.Variant = arch, ""
	switch arch { // those that Go calls otherwise
	case "i386":
		p.Architecture = "386"
	case "x86_64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "aarch64_be":
		p.Architecture = "arm64be"
	case "armv6l":
		p.Architecture, p.Variant = "arm", "v6"
	case "armv7l":
		p.Architecture, p.Variant = "arm", "v7"
	case "armv7b":
		p.Architecture, p.Variant = "armbe", "v7"
	}
	return p
}

// configure sets what an app's configuration has a place for; the rest is for
// those who read the manifest (docs/appc.md).
func (a *App) configure(ctx context.Context, c *v1.ImageConfig, trees []tree) error {
	user, err := a.numbers(ctx, trees)
	if err != nil {
		return err
	}
	c.User, c.Entrypoint, c.WorkingDir = user, a.Exec, a.WorkingDirectory
	for _, v := range a.Environment {
		c.Env = append(c.Env, v.Name+"="+v.Value)
	}
	for _, p := range a.MountPoints {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[p.Path] = struct{}{}
	}
	c.ExposedPorts, err = exposed(a.Ports)
	return err
}

// numbers gives user and group as configurations have them. Those that are told
// by whose a file is are looked up: nobody else knows of that.
func (a *App) numbers(ctx context.Context, trees []tree) (string, error) {
	user, group := a.User, a.Group
	if strings.HasPrefix(user, "/") {
		uid, _, err := owner(ctx, trees, user)
		if err != nil {
			return "", err
		}
		user = strconv.Itoa(uid)
	}
	if strings.HasPrefix(group, "/") {
		_, gid, err := owner(ctx, trees, group)
		if err != nil {
			return "", err
		}
		group = strconv.Itoa(gid)
	}
	return user + ":" + group, nil
}

// maxExposed bounds the ports of an image.
const maxExposed = 65535

// exposed gives each port for itself.
func exposed(ports []Port) (map[string]struct{}, error) {
	if len(ports) == 0 {
		return nil, nil
	}
	all, n := map[string]struct{}{}, uint(0)
	for _, p := range ports {
		if n += p.Count; n > maxExposed {
			return nil, image.Refuse(op, image.TooLarge, "ports", "more than %d", maxExposed)
		}
		for i := range p.Count {
			all[fmt.Sprintf("%d/%s", p.Port+i, p.Protocol)] = struct{}{}
		}
	}
	return all, nil
}

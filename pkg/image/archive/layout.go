package archive

import (
	"cmp"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stagelet/stagelet/pkg/image"
)

// containerdName is the annotation that holds a whole reference (containerd,
// BuildKit, Docker); OCI's own holds just a tag, mostly.
const containerdName = "io.containerd.image.name"

// layoutImages finds the images of an OCI image layout (OCI image-spec,
// image-layout.md). Docker writes its manifest.json beside it: that gives the
// tags then, and must not speak of other images.
func (fs *files) layoutImages(host v1.Platform) ([]*found, error) {
	if err := fs.checkLayout(); err != nil {
		return nil, err
	}
	data, err := fs.document(v1.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	index, err := image.ParseIndex("", data)
	if err != nil {
		return nil, err
	}
	var all []*found
	for _, group := range grouped(index.Manifests) {
		d, err := pick(host, group)
		if err != nil {
			return nil, err
		}
		f, err := fs.layoutImage(host, d, 0)
		if err != nil {
			return nil, err
		}
		if name := nameOf(group[0]); name != "" {
			ref, err := image.ParseTag(name)
			if err != nil {
				return nil, err
			}
			f.names = []image.Ref{ref}
		}
		all = append(all, f)
	}
	all = merge(all)
	if fs.has(dockerManifest) {
		if err := fs.addTags(all); err != nil {
			return nil, err
		}
	}
	return all, checkNames(all)
}

func (fs *files) checkLayout() error {
	data, err := fs.document(v1.ImageLayoutFile)
	if err != nil {
		return err
	}
	var layout v1.ImageLayout
	if err := image.DecodeDocument(v1.ImageLayoutFile, data, &layout); err != nil {
		return err
	}
	if layout.Version != v1.ImageLayoutVersion {
		return image.Refuse(op, image.WrongFormat, v1.ImageLayoutFile, "version %s, must be %s", image.Printable(layout.Version), v1.ImageLayoutVersion)
	}
	return nil
}

// nameOf gives the reference that a descriptor of the top index is annotated
// with. A bare tag, which OCI allows, names nothing by itself.
func nameOf(d v1.Descriptor) string {
	if name := d.Annotations[containerdName]; name != "" {
		return name
	}
	name := d.Annotations[v1.AnnotationRefName]
	if ref, err := image.ParseTag(name); err != nil || ref.Familiar() != name && ref.String() != name {
		return ""
	}
	return name
}

// grouped puts descriptors of one name together: they are one image for
// several platforms. Those without a name are one image too; a bare tag is
// enough to tell images apart.
func grouped(all []v1.Descriptor) [][]v1.Descriptor {
	var groups [][]v1.Descriptor
	at := map[string]int{}
	for _, d := range all {
		key := cmp.Or(d.Annotations[containerdName], d.Annotations[v1.AnnotationRefName])
		i, known := at[key]
		if !known {
			i = len(groups)
			at[key] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], d)
	}
	return groups
}

// pick picks from the descriptors of one image. A single one needs to say no
// platform: its configuration does.
func pick(host v1.Platform, group []v1.Descriptor) (v1.Descriptor, error) {
	if len(group) == 1 {
		return group[0], nil
	}
	return image.Select(host, group)
}

// maxDepth is how deep an index may lie below the top one.
const maxDepth = 1

// layoutImage reads the image that d leads to, through an index if it is one.
func (fs *files) layoutImage(host v1.Platform, d v1.Descriptor, depth int) (*found, error) {
	data, err := fs.blobDocument(d)
	if err != nil {
		return nil, err
	}
	mediaType, err := image.DocumentType(d.MediaType, data)
	if err != nil {
		return nil, err
	}
	if image.IsIndex(mediaType) {
		if depth == maxDepth {
			return nil, image.Refuse(op, image.TooLarge, string(d.Digest), "an index in an index in an index")
		}
		index, err := image.ParseIndex(mediaType, data)
		if err != nil {
			return nil, err
		}
		chosen, err := image.Select(host, index.Manifests)
		if err != nil {
			return nil, err
		}
		return fs.layoutImage(host, chosen, depth+1)
	}
	m, err := image.ParseManifest(mediaType, data)
	if err != nil {
		return nil, err
	}
	f := &found{manifest: data, manifestType: mediaType}
	if f.config, err = fs.blobDocument(m.Config); err != nil {
		return nil, err
	}
	for _, l := range m.Layers {
		layer, err := fs.blob(l)
		if err != nil {
			return nil, err
		}
		f.layers = append(f.layers, layer)
	}
	return f, nil
}

// merge makes one image of those that are the same under several names.
func merge(all []*found) []*found {
	var merged []*found
	for _, f := range all {
		i := slices.IndexFunc(merged, func(m *found) bool { return string(m.manifest) == string(f.manifest) })
		if i < 0 {
			merged = append(merged, f)
			continue
		}
		merged[i].names = append(merged[i].names, f.names...)
	}
	return merged
}

// addTags adds the tags of manifest.json. What it says of an image must be
// what the layout says.
func (fs *files) addTags(all []*found) error {
	entries, err := fs.dockerEntries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		said, err := fs.dockerImage(e)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(f *found) bool { return string(f.config) == string(said.config) })
		if i < 0 {
			return image.Refuse(op, image.Ambiguous, dockerManifest, "%s is not an image of %s", image.Printable(e.Config), v1.ImageIndexFile)
		}
		if !slices.Equal(all[i].layers, said.layers) {
			return image.Refuse(op, image.Ambiguous, dockerManifest, "the layers of %s are others in %s", image.Printable(e.Config), v1.ImageIndexFile)
		}
		for _, name := range said.names {
			if !slices.ContainsFunc(all[i].names, func(n image.Ref) bool { return n.String() == name.String() }) {
				all[i].names = append(all[i].names, name)
			}
		}
	}
	return nil
}

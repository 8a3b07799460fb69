// Package appc reads what the App Container specification (appc/spec 0.8.11)
// describes: images (ACI) with their dependencies, and the manifests of images
// and pods.
package appc

import "encoding/json"

// SpecVersion is the version of the specification that is honoured.
const SpecVersion = "0.8.11"

// The kinds of document ("AC Kind Type").
const (
	ImageManifestKind = "ImageManifest"
	PodManifestKind   = "PodManifest"
)

// ImageManifest is what an image says of itself (aci.md, "Image Manifest
// Schema"). One that ParseImageManifest gave is valid.
type ImageManifest struct {
	Kind    string `json:"acKind"`
	Version string `json:"acVersion"`
	// Name is an AC identifier, "example.com/app".
	Name   string `json:"name"`
	Labels Labels `json:"labels,omitempty"`
	// App is how the image is run; nil: it is there for others to depend on.
	App          *App         `json:"app,omitempty"`
	Dependencies []Dependency `json:"dependencies,omitempty"`
	// PathWhitelist are the clean absolute paths that are left of the image and
	// its dependencies; none: all are.
	PathWhitelist []string    `json:"pathWhitelist,omitempty"`
	Annotations   Annotations `json:"annotations,omitempty"`
}

// App is how to run an image (aci.md, "app").
type App struct {
	Exec []string `json:"exec,omitempty"`
	// User and Group are a name, a number, or the absolute path of a file whose
	// owner is meant.
	User              string `json:"user"`
	Group             string `json:"group"`
	SupplementaryGIDs []int  `json:"supplementaryGIDs,omitempty"`
	// EventHandlers has at most one of each name.
	EventHandlers []EventHandler `json:"eventHandlers,omitempty"`
	// WorkingDirectory is absolute; "": the root.
	WorkingDirectory string                `json:"workingDirectory,omitempty"`
	Environment      []EnvironmentVariable `json:"environment,omitempty"`
	MountPoints      []MountPoint          `json:"mountPoints,omitempty"`
	Ports            []Port                `json:"ports,omitempty"`
	Isolators        []Isolator            `json:"isolators,omitempty"`
	// UserAnnotations and UserLabels mean nothing to whoever runs the app.
	UserAnnotations map[string]string `json:"userAnnotations,omitempty"`
	UserLabels      map[string]string `json:"userLabels,omitempty"`
}

// The names of event handlers.
const (
	PreStart = "pre-start" // ends before the app is started
	PostStop = "post-stop" // is started once the app has ended
)

// EventHandler is a program that is run around the app.
type EventHandler struct {
	Name string   `json:"name"`
	Exec []string `json:"exec"`
}

// EnvironmentVariable is one variable; nothing in its value is substituted.
type EnvironmentVariable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// MountPoint is where an app expects data from outside.
type MountPoint struct {
	Name     string `json:"name"` // an AC name
	Path     string `json:"path"` // absolute
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Port is one port that an app listens on, or several in a row.
type Port struct {
	Name     string `json:"name"`     // an AC name
	Protocol string `json:"protocol"` // any, mostly "tcp" or "udp"
	Port     uint   `json:"port"`     // 1 to 65535
	// Count is how many ports there are, from Port on: 1 at least.
	Count           uint `json:"count,omitempty"`
	SocketActivated bool `json:"socketActivated,omitempty"`
}

// Isolator bounds or allows something (types.md, "Isolator Type"; ace.md,
// "Isolators"). What its value may be is for whoever honours it to say.
type Isolator struct {
	Name  string          `json:"name"` // an AC identifier
	Value json.RawMessage `json:"value"`
}

// Dependency is an image whose files come below those of the image that names
// it (aci.md, "Dependency Matching").
type Dependency struct {
	ImageName string `json:"imageName"` // an AC identifier
	// ImageID is "sha512-…", the image's own; "" if any will do.
	ImageID string `json:"imageID,omitempty"`
	Labels  Labels `json:"labels,omitempty"`
	// Size is how many bytes the image has as it is transferred; 0: any.
	Size uint64 `json:"size,omitempty"`
}

// Label is a name and a value.
type Label struct {
	Name  string `json:"name"` // an AC identifier
	Value string `json:"value"`
}

// Labels tell images of one name apart. Their names are unique.
type Labels []Label

// Get gives the value of a label.
func (all Labels) Get(name string) (value string, there bool) {
	for _, l := range all {
		if l.Name == name {
			return l.Value, true
		}
	}
	return "", false
}

// Annotations are labels that nothing is looked up by.
type Annotations = Labels

// PodManifest is what is to run together (pods.md, "Pod Manifest Schema"). One
// that ParsePodManifest gave is valid.
type PodManifest struct {
	Version string `json:"acVersion"`
	Kind    string `json:"acKind"`
	// Apps have different names.
	Apps            []RuntimeApp      `json:"apps"`
	Volumes         []Volume          `json:"volumes,omitempty"`
	Isolators       []Isolator        `json:"isolators,omitempty"`
	Annotations     Annotations       `json:"annotations,omitempty"`
	Ports           []ExposedPort     `json:"ports,omitempty"`
	UserAnnotations map[string]string `json:"userAnnotations,omitempty"`
	UserLabels      map[string]string `json:"userLabels,omitempty"`
}

// RuntimeApp is one app of a pod.
type RuntimeApp struct {
	Name  string       `json:"name"` // an AC name
	Image RuntimeImage `json:"image"`
	// App is used instead of what the image says; nil: the image's.
	App            *App        `json:"app,omitempty"`
	ReadOnlyRootFS bool        `json:"readOnlyRootFS,omitempty"`
	Mounts         []Mount     `json:"mounts,omitempty"`
	Annotations    Annotations `json:"annotations,omitempty"`
}

// RuntimeImage is the image of an app: by its id, by its name, or both.
type RuntimeImage struct {
	// ID is "sha512-…", whole or the beginning of it.
	ID     string `json:"id,omitempty"`
	Name   string `json:"name,omitempty"` // an AC identifier
	Labels Labels `json:"labels,omitempty"`
}

// Mount is a volume in an app.
type Mount struct {
	Volume string `json:"volume"` // an AC name
	Path   string `json:"path"`   // in the app, absolute
	// AppVolume is used instead of the pod's volume of that name.
	AppVolume *Volume `json:"appVolume,omitempty"`
}

// The kinds of volume.
const (
	VolumeEmpty = "empty" // a new directory, for as long as the pod is there
	VolumeHost  = "host"  // a path of the host
)

// Volume is what apps of a pod can mount.
type Volume struct {
	Name     string `json:"name"` // an AC name
	Kind     string `json:"kind"`
	ReadOnly bool   `json:"readOnly,omitempty"`

	// Source is the absolute path of a host volume, and Recursive says whether
	// mounts below it come along; nil: they do.
	Source    string `json:"source,omitempty"`
	Recursive *bool  `json:"recursive,omitempty"`

	// Mode, in octal digits, UID and GID are those of an empty volume; nil or
	// "": 0755, 0, 0.
	Mode string `json:"mode,omitempty"`
	UID  *int   `json:"uid,omitempty"`
	GID  *int   `json:"gid,omitempty"`
}

// ExposedPort is a port of the host that leads to one of an app.
type ExposedPort struct {
	Name     string `json:"name"` // an AC name
	HostPort uint   `json:"hostPort"`
	HostIP   string `json:"hostIP,omitempty"` // "": all addresses
	// PodPort is used instead of the app's port of that name.
	PodPort *Port `json:"podPort,omitempty"`
}

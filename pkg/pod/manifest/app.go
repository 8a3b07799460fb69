package manifest

import (
	"encoding/json"
	"path/filepath"
)

// App is the immutable configuration of an app: app.json. (Resources may be
// updated while it lives: the update replaces the record.)
type App struct {
	Version int    `json:"version"`
	ID      string `json:"id"`    // 64 hex characters, derived from nothing
	PodID   string `json:"podID"` // the pod it lives in

	// Name and Attempt are the key of an app within its pod (CRI
	// ContainerMetadata): the same key again is a retry.
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt,omitempty"`

	CreatedAt   int64             `json:"createdAt"` // ns since the Unix epoch
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	Image  AppImage `json:"image"`
	Rootfs Rootfs   `json:"rootfs"`

	Args []string `json:"args"` // the whole argument vector, resolved against the image
	Env  []string `json:"env,omitempty"`
	Cwd  string   `json:"cwd"`
	User User     `json:"user"`

	TTY       bool   `json:"tty,omitempty"`
	Rows      uint16 `json:"rows,omitempty"` // of the terminal at the start, in characters; 0: unknown
	Cols      uint16 `json:"cols,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`     // keep stdin open for attachers
	StdinOnce bool   `json:"stdinOnce,omitempty"` // close it after the first one leaves

	// LogPath is relative to the pod's LogDir; empty: no log is kept.
	LogPath string `json:"logPath,omitempty"`

	Mounts  []Mount  `json:"mounts,omitempty"`
	Devices []Device `json:"devices,omitempty"`
	// CDIDevices are fully qualified names ("vendor/class=device").
	CDIDevices []string `json:"cdiDevices,omitempty"`

	PID       PIDNamespace `json:"pid"`
	Security  Security     `json:"security"`
	Resources Resources    `json:"resources"`

	// Restore says that the app's processes are those of a checkpoint
	// (AppDir.Checkpoint), and starting it lets them go on.
	Restore bool `json:"restore,omitempty"`

	// StopSignal is a name such as SIGTERM or a number; empty: SIGTERM.
	StopSignal string `json:"stopSignal,omitempty"`
}

// AppImage is where an app's root file system came from.
type AppImage struct {
	ID   string `json:"id"`   // digest of the image's configuration
	Name string `json:"name"` // as the user wrote it (CRI user_specified_image)
	// Ref is the digested reference by which a registry gave the image out
	// (CRI image_ref); empty for a local import.
	Ref string `json:"ref,omitempty"`
}

// Rootfs describes a root file system; the supervisor mounts it.
type Rootfs struct {
	Layers   []Layer `json:"layers"` // lowest first
	ReadOnly bool    `json:"readOnly,omitempty"`
}

// Layer is one layer of an image in the layer store.
type Layer struct {
	DiffID string `json:"diffID"` // digest of the uncompressed tar (OCI image-spec)
	Path   string `json:"path"`   // directory that holds its tree
}

// PIDNamespace says in which PID namespace an app runs.
type PIDNamespace struct {
	Mode   NamespaceMode `json:"mode"`
	Target string        `json:"target,omitempty"` // app id, with NamespaceTarget
}

// User is who an app runs as, resolved against its image's /etc/passwd and
// /etc/group.
type User struct {
	UID            uint32   `json:"uid"`
	GID            uint32   `json:"gid"`
	AdditionalGIDs []uint32 `json:"additionalGIDs,omitempty"`
}

// Propagation says in which directions mounts made later below a mount travel
// (mount_namespaces(7); CRI MountPropagation).
type Propagation string

// The propagations.
const (
	PropagationPrivate         Propagation = "private"
	PropagationHostToContainer Propagation = "host-to-container" // rslave
	PropagationBidirectional   Propagation = "bidirectional"     // rshared
)

// Options of mounts (mount(8)).
const (
	NoExec = "noexec"
	NoDev  = "nodev"
	NoSUID = "nosuid"
)

// Mount binds a path of the host into an app.
type Mount struct {
	Source            string      `json:"source"`      // absolute, in the host's mount namespace
	Destination       string      `json:"destination"` // absolute, in the app
	ReadOnly          bool        `json:"readOnly,omitempty"`
	RecursiveReadOnly bool        `json:"recursiveReadOnly,omitempty"`
	Propagation       Propagation `json:"propagation"`
	SELinuxRelabel    bool        `json:"selinuxRelabel,omitempty"`
	UIDs              []IDMapping `json:"uids,omitempty"`
	GIDs              []IDMapping `json:"gids,omitempty"`
	// Options are some of NoExec, NoDev and NoSUID; they hold for what is
	// mounted below, too.
	Options []string `json:"options,omitempty"`
	// Injected says that nobody asked for it by name: it came with a device, or
	// from a plugin.
	Injected bool `json:"injected,omitempty"`
	// Image is set instead of Source for an image volume: layers, lowest first.
	Image *ImageMount `json:"image,omitempty"`
	// Part is set instead of Source for what lies in a volume.
	Part *VolumePart `json:"part,omitempty"`
}

// From gives where on the host a mount comes from, for those who are told of
// it: empty for an image, and for a volume in memory.
func (m Mount) From() string {
	switch {
	case m.Part != nil && m.Part.Memory != "":
		return ""
	case m.Part != nil:
		return filepath.Join(m.Part.Volume, m.Part.SubPath)
	}
	return m.Source
}

// VolumePart is a directory or a file in a volume, found when the app starts.
// No symbolic link in the volume leads out of it: they are resolved as if the
// volume were "/".
type VolumePart struct {
	Volume  string `json:"volume,omitempty"`  // directory, absolute, in the host's mount namespace
	Memory  string `json:"memory,omitempty"`  // instead of it, the name of a volume of the pod's own, in memory
	SubPath string `json:"subPath,omitempty"` // relative; empty: all of it
	// Make has a directory made, like the volume's own, where nothing is.
	Make bool `json:"make,omitempty"`
}

// ImageMount is an image mounted as a volume (CRI Mount.image).
type ImageMount struct {
	ID      string  `json:"id"`
	Name    string  `json:"name"`
	Layers  []Layer `json:"layers"`
	SubPath string  `json:"subPath,omitempty"`
}

// Device gives an app a device of the host (CRI Device).
type Device struct {
	HostPath      string `json:"hostPath"`
	ContainerPath string `json:"containerPath"`
	Permissions   string `json:"permissions"` // of "rwm"
}

// DefaultAppArmor is the profile of apps that ask for the runtime's default.
const DefaultAppArmor = "stagelet-default"

// Security is how an app is confined.
type Security struct {
	Privileged     bool     `json:"privileged,omitempty"`
	NoNewPrivs     bool     `json:"noNewPrivs,omitempty"`
	Capabilities   []string `json:"capabilities,omitempty"` // CAP_…: bounding, effective and permitted
	Ambient        []string `json:"ambient,omitempty"`      // CAP_…: also inheritable
	MaskedPaths    []string `json:"maskedPaths,omitempty"`
	ReadOnlyPaths  []string `json:"readOnlyPaths,omitempty"`
	Seccomp        *Seccomp `json:"seccomp,omitempty"`  // nil: unconfined
	AppArmor       string   `json:"appArmor,omitempty"` // name of a profile, or "unconfined"
	SELinuxLabel   string   `json:"selinuxLabel,omitempty"`
	WritableCgroup bool     `json:"writableCgroup,omitempty"`
}

// Seccomp picks a filter: the runtime's default one when neither Localhost nor
// Profile is set.
type Seccomp struct {
	Localhost string `json:"localhost,omitempty"` // path of a profile on the host
	// Profile is one of the app's own (runtime-spec, linux.seccomp): made of
	// what the app was asked for, it lies where that lies.
	Profile json.RawMessage `json:"profile,omitempty"`
}

// Resources of an app or of a pod. Zero and nil mean "not set", as in CRI's
// LinuxContainerResources.
type Resources struct {
	CPUPeriod   int64             `json:"cpuPeriod,omitempty"`   // µs
	CPUQuota    int64             `json:"cpuQuota,omitempty"`    // µs in each period; -1: none
	CPUShares   int64             `json:"cpuShares,omitempty"`   // cgroup v1 units: 1024 is one CPU's worth
	MemoryLimit int64             `json:"memoryLimit,omitempty"` // bytes
	SwapLimit   int64             `json:"swapLimit,omitempty"`   // bytes of memory and swap together
	OOMScoreAdj int64             `json:"oomScoreAdj,omitempty"` // -1000 … 1000 (proc(5))
	CPUSetCPUs  string            `json:"cpusetCPUs,omitempty"`  // cpuset(7) list format
	CPUSetMems  string            `json:"cpusetMems,omitempty"`
	PidsLimit   int64             `json:"pidsLimit,omitempty"`
	HugePages   map[string]uint64 `json:"hugePages,omitempty"` // page size ("2MB") to bytes
	Unified     map[string]string `json:"unified,omitempty"`   // cgroup v2 file to value
}

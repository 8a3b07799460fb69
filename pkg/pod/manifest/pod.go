// Package manifest is what a pod is, as it lies on disk: pure data, versioned
// and validated. Nothing here opens a file or knows gRPC.
//
// A pod is CRI's "sandbox" and an app is CRI's "container"; those two words
// stay above, in pkg/cri.
package manifest

// Version is the version of the records of this package. Fields are only
// added; a change of meaning raises it.
const Version = 1

// Record kinds, as they stand in the files of a pod directory.
const (
	KindPod     = "pod"
	KindApp     = "app"
	KindStatus  = "status"
	KindStage1  = "stage1"
	KindNetwork = "network"
	KindPlan    = "plan"
)

// Pod is the immutable configuration of a pod: pod.json. (Overhead and
// Resources may be updated while it lives: the update replaces the record.)
type Pod struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // 64 hex characters, derived from nothing

	// Name, Namespace, UID and Attempt together are the key of a pod made by
	// kubelet (CRI PodSandboxMetadata): the same key again is a retry.
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	UID       string `json:"uid,omitempty"`
	Attempt   uint32 `json:"attempt,omitempty"`

	Creator   Creator `json:"creator"`
	CreatedAt int64   `json:"createdAt"` // ns since the Unix epoch

	// Handler is the RuntimeHandler as asked for, "" for the default one;
	// stage1.json says which flavor it was resolved to.
	Handler string `json:"handler,omitempty"`

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	Hostname   string            `json:"hostname,omitempty"`
	DNS        *DNS              `json:"dns,omitempty"`   // nil: the host's
	Hosts      []HostEntry       `json:"hosts,omitempty"` // of /etc/hosts, behind the host's
	LogDir     string            `json:"logDir,omitempty"`
	Namespaces Namespaces        `json:"namespaces"`
	Ports      []PortMapping     `json:"ports,omitempty"`
	Sysctls    map[string]string `json:"sysctls,omitempty"`
	Privileged bool              `json:"privileged,omitempty"` // may hold privileged apps
	Volumes    []EmptyVolume     `json:"volumes,omitempty"`

	// LoopbackOnly says that no network plugin is told of the pod: its network
	// namespace, which must be its own, has no interface but loopback.
	LoopbackOnly bool `json:"loopbackOnly,omitempty"`
	// EndsWithApps says that the pod ends once all of its apps have; one of
	// kubelet goes on until it is stopped.
	EndsWithApps bool `json:"endsWithApps,omitempty"`
	// StopGrace is how long its apps may take to end when it is stopped and
	// nobody says otherwise, in seconds; 0: not set.
	StopGrace int64 `json:"stopGrace,omitempty"`
	// RemoveAtEnd says that nothing of the pod is kept once it has ended.
	RemoveAtEnd bool `json:"removeAtEnd,omitempty"`

	// CgroupParent is the cgroup that holds the cgroups of this pod: the
	// supervisor's, named after the pod, and one per app. Absolute; it is
	// kubelet's when kubelet made the pod, else our own.
	CgroupParent string `json:"cgroupParent"`
	// CgroupScope is the systemd unit between CgroupParent, then a slice, and
	// those cgroups; empty where we make cgroups ourselves.
	CgroupScope string `json:"cgroupScope,omitempty"`
	// OwnsCgroupParent says that CgroupParent was made for this pod, and goes
	// with it.
	OwnsCgroupParent bool       `json:"ownsCgroupParent,omitempty"`
	Overhead         *Resources `json:"overhead,omitempty"`  // CRI LinuxPodSandboxConfig.overhead
	Resources        *Resources `json:"resources,omitempty"` // sum over the apps, as kubelet says

	SELinuxLabel string `json:"selinuxLabel,omitempty"`
	// Metadata is set when the server tells the pod's apps who they are.
	Metadata *Metadata `json:"metadata,omitempty"`
	// Seccomp confines what of the pod is not an app: our init of a shared
	// PID namespace.
	Seccomp *Seccomp `json:"seccomp,omitempty"`
}

// Metadata says where the pod's apps reach the metadata service (appc,
// ace.md): at the loopback of their network namespace.
type Metadata struct {
	Port  uint16 `json:"port"`
	Token string `json:"token"` // known to nobody else
}

// Creator is which edge a pod came through.
type Creator string

// The creators. Pods of a person are not listed to kubelet.
const (
	CreatorCRI Creator = "cri"
	CreatorCLI Creator = "cli"
)

// DNS is what the pod's resolv.conf says (resolv.conf(5)).
type DNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// HostEntry is a line of the pod's /etc/hosts (hosts(5)).
type HostEntry struct {
	IP    string   `json:"ip"`
	Names []string `json:"names"`
}

// PortMapping asks for a port of the host to lead into the pod.
type PortMapping struct {
	Protocol string `json:"protocol"` // "tcp", "udp" or "sctp"
	HostPort int32  `json:"hostPort"`
	PodPort  int32  `json:"podPort"`
	HostIP   string `json:"hostIP,omitempty"`
}

// NamespaceMode says whose namespace a process lives in (CRI NamespaceMode).
type NamespaceMode string

// The modes.
const (
	NamespacePod    NamespaceMode = "pod"    // one for all apps of the pod
	NamespaceApp    NamespaceMode = "app"    // the app's own (PID only)
	NamespaceHost   NamespaceMode = "host"   // the host's
	NamespaceTarget NamespaceMode = "target" // that of another app of the pod (PID only)
)

// Namespaces of a pod. UTS follows Network: a pod on the host's network has
// the host's name.
type Namespaces struct {
	Network NamespaceMode `json:"network"` // pod or host
	IPC     NamespaceMode `json:"ipc"`     // pod or host
	PID     NamespaceMode `json:"pid"`     // pod, app or host; an app may say otherwise
	// User is nil in the host's user namespace.
	User *UserNamespace `json:"user,omitempty"`
}

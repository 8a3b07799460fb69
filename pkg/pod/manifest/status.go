package manifest

// AppState is where an app is in its life.
type AppState string

// The states. An app with no status record is Created.
const (
	AppCreated AppState = "created"
	AppRunning AppState = "running"
	AppExited  AppState = "exited"
	// AppUnknown is an app whose supervisor died before it could say how the
	// app ended.
	AppUnknown AppState = "unknown"
)

// Reasons of an exit, as kubelet's users know them.
const (
	ReasonCompleted  = "Completed"
	ReasonError      = "Error"
	ReasonOOMKilled  = "OOMKilled"
	ReasonStartError = "StartError" // the app's process never ran
	// ReasonSupervisorLost: the supervisor died and took the app with it.
	ReasonSupervisorLost = "SupervisorLost"
)

// ExitStartError is the exit code of an app whose process never ran, and
// ExitLost that of one whose end nobody saw (137: as by SIGKILL).
const (
	ExitStartError = 128
	ExitLost       = 137
)

// Status is what became of an app: status.json, written by the supervisor
// alone, before it sends the event that tells of it.
type Status struct {
	Version    int      `json:"version"`
	State      AppState `json:"state"`
	PID        int      `json:"pid,omitempty"`        // of the app's first process, in the host's view
	StartedAt  int64    `json:"startedAt,omitempty"`  // ns since the Unix epoch
	FinishedAt int64    `json:"finishedAt,omitempty"` // ns since the Unix epoch
	ExitCode   int      `json:"exitCode"`             // 128+n when ended by signal n
	Signal     int      `json:"signal,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Message    string   `json:"message,omitempty"` // at most MaxMessage bytes
	OOMKilled  bool     `json:"oomKilled,omitempty"`
}

// MaxMessage bounds Status.Message, in bytes.
const MaxMessage = 4096

// Stage1 is the flavor a pod was made with, pinned for its life: stage1.json.
type Stage1 struct {
	Version    int      `json:"version"`
	Flavor     string   `json:"flavor"`
	Supervisor Artifact `json:"supervisor"`
	Executor   Executor `json:"executor"`
}

// Artifact is a program that a pod depends on.
type Artifact struct {
	Path   string `json:"path"`   // in the store of pinned artifacts
	Digest string `json:"digest"` // "sha256:…" of its bytes
}

// Executor says how a supervisor starts apps through an OCI runtime.
type Executor struct {
	Runtime Artifact `json:"runtime"`
	Args    []string `json:"args,omitempty"` // global arguments, before the command
	// SandboxAnnotations says that the runtime wants each pod to have a
	// sandbox container, named by the io.kubernetes.cri annotations (gVisor).
	SandboxAnnotations bool `json:"sandboxAnnotations,omitempty"`
	// Exit says how to learn that an app ended.
	Exit ExitSource `json:"exit"`
	// Cgroup says whose limits and figures the cgroup of an app holds.
	Cgroup CgroupOwner `json:"cgroup"`
}

// ExitSource is how a supervisor learns of an app's end.
type ExitSource string

// The sources.
const (
	ExitReap ExitSource = "reap" // the app's process is reparented to the supervisor
	ExitWait ExitSource = "wait" // the runtime's "wait" command tells
)

// CgroupOwner is what a runtime puts into the cgroup of an app.
type CgroupOwner string

// The owners.
const (
	CgroupApp CgroupOwner = "app" // that app's processes
	CgroupPod CgroupOwner = "pod" // nothing: all run in the pod's
)

// Network is the outcome of a pod's network set-up: network.json.
type Network struct {
	Version int      `json:"version"`
	NetNS   string   `json:"netns"` // path of the pinned namespace
	IPs     []string `json:"ips"`   // the first is the pod's own, the others additional
	// Attachments are in the order in which they were made; none of a pod
	// with loopback only.
	Attachments []Attachment `json:"attachments,omitempty"`
}

// Attachment is one network that a pod was added to, with what is needed to
// take it off again when the configuration has changed since.
type Attachment struct {
	Network   string `json:"network"`   // name of the configuration list
	Interface string `json:"interface"` // in the pod
	Config    []byte `json:"config"`    // the configuration list as it was
	Result    []byte `json:"result"`    // the CNI result as it was
	// Capabilities are the capability arguments as they were, a JSON object
	// (CNI CONVENTIONS.md, "Dynamic Plugin specific fields").
	Capabilities []byte `json:"capabilities,omitempty"`
}

package stage0

import (
	"os"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// AppRequest is an app as a caller asks for it; AddApp resolves it against
// its image. App carries what needs no resolving; its ID, PodID, CreatedAt,
// Image, Rootfs, Args, Env, Cwd, User and StopSignal are AddApp's to fill.
type AppRequest struct {
	App manifest.App

	Image     string // id, tag or digest of an image in the store
	ImageName string // as the user wrote it; empty: Image

	// Volumes are the pod's empty volumes that the app sees, behind App.Mounts.
	Volumes []VolumeMount `json:",omitempty"`

	// Checkpoint is what an app is restored from; nil: it is new.
	Checkpoint *AppCheckpoint `json:",omitempty"`

	Command []string // replaces the image's entrypoint
	Args    []string // replaces the image's command
	Env     []string // "KEY=value", over the image's
	Cwd     string   // empty: the image's, else "/"
	User    UserRequest
	// StopSignal replaces the image's.
	StopSignal string
	// Capabilities to add to and drop from the default set, with or without
	// "CAP_", "ALL" for all; Ambient ones are added too.
	AddCapabilities, DropCapabilities, AmbientCapabilities []string
}

// VolumeMount shows an app one of its pod's empty volumes (manifest.Pod).
type VolumeMount struct {
	Volume      string // by name
	SubPath     string `json:",omitempty"` // relative; made when the app starts if it isn't there; empty: all of it
	Destination string // absolute, in the app
	ReadOnly    bool   `json:",omitempty"`
}

// UserRequest says who an app runs as. Nil and empty: as the image says.
type UserRequest struct {
	UID      *uint32
	GID      *uint32
	Username string // instead of UID: a name in the image's /etc/passwd, a number, or the absolute path of a file of the image that the user owns
	// Groupname is instead of GID: a name in the image's /etc/group, a number,
	// or a path as above.
	Groupname string `json:",omitempty"`
	// NonRoot refuses user 0 (Kubernetes runAsNonRoot).
	NonRoot bool `json:",omitempty"`
	// Supplemental groups, beside those that the image's /etc/group gives.
	Supplemental []uint32
	// Strict leaves out the groups of /etc/group (CRI
	// SupplementalGroupsPolicy Strict).
	Strict bool
}

// ExecRequest runs a command in an app. The descriptors are the command's;
// the caller closes its own copies.
type ExecRequest struct {
	Args                  []string
	TTY                   bool
	Stdin, Stdout, Stderr *os.File // nil: /dev/null; with TTY only Stdin, the terminal's far side
	// Name is what Resize knows the command by; empty: it isn't resized.
	Name string
	// Size is the terminal's first one; zero: unknown.
	Size TerminalSize
}

// AttachRequest joins an app's streams. Stdin is what is read to the app,
// Stdout and Stderr take its output; the caller closes its own copies.
type AttachRequest struct {
	Stdin, Stdout, Stderr *os.File // nil: /dev/null
	// Joined is called once nothing of the app's output can be missed, and
	// makes the app wait for this caller instead of letting it go; nil: neither.
	Joined func()
}

// TerminalSize is in characters.
type TerminalSize struct{ Rows, Cols uint16 }

// Event tells that a pod or one of its apps changed.
type Event struct {
	Time int64 // when it was told, in ns since the Unix epoch; rises from event to event
	Kind EventKind
	App  string        // empty: the pod itself
	Pod  *pod.Snapshot // after the change; the last one known when Removed
}

// EventKind says what changed.
type EventKind string

// The kinds.
const (
	Created EventKind = "created"
	Started EventKind = "started"
	Stopped EventKind = "stopped"
	Removed EventKind = "removed"
)

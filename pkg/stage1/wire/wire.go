// Package wire is the stage1 contract: the messages between whoever owns pods
// (stage0) and the supervisor of one pod. docs/stage1-protocol.md tells it in
// words; every stage1 flavor speaks it, whatever it is made of.
//
// A call is one connection to the pod's socket: one Request, then one Reply
// (Events: any number of Replies). Each is a frame: a length of 4 bytes, big
// endian, then that much JSON. Descriptors travel by SCM_RIGHTS with the
// first byte of a frame. Closing the connection cancels the call.
package wire

import (
	"encoding/json"
	"errors"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Major and Minor are the version of the contract. Within a major one there
// are only additions; stage0 speaks every major that a live pod was made with.
const (
	Major = 1
	Minor = 1
)

// MaxFrame bounds a frame, in bytes.
const MaxFrame = 4 << 20

// MaxDescriptors bounds the descriptors that travel with one frame.
const MaxDescriptors = 4

// Method names a verb.
type Method string

// The verbs. All are idempotent by app id.
const (
	Hello     Method = "Hello"     // → HelloResult
	Status    Method = "Status"    // → StatusResult
	AddApp    Method = "AddApp"    // AddAppParams
	StartApp  Method = "StartApp"  // AppParams → manifest.Status
	SignalApp Method = "SignalApp" // SignalParams
	StopApp   Method = "StopApp"   // StopParams → manifest.Status, once it has ended
	RemoveApp Method = "RemoveApp" // AppParams; an app that lives is Precondition
	UpdateApp Method = "UpdateApp" // UpdateParams
	Exec      Method = "Exec"      // ExecParams + 3 descriptors (TTY: 1) → ExecResult, once it has ended
	Attach    Method = "Attach"    // AttachParams + 3 descriptors; ends with the app or the connection
	ResizeTTY Method = "ResizeTTY" // ResizeParams
	ReopenLog Method = "ReopenLog" // AppParams
	Stats     Method = "Stats"     // → StatsResult
	Dial      Method = "Dial"      // DialParams → a connected socket as descriptor
	Events    Method = "Events"    // EventsParams → Event, Event, …
	Shutdown  Method = "Shutdown"  // ends every app, then the supervisor

	// Since 1.1, with FeatureCheckpoint.
	Freeze     Method = "Freeze"     // FreezeParams → a reply when frozen, one when thawed
	Checkpoint Method = "Checkpoint" // CheckpointParams
)

// Features a supervisor may have, told by Hello.
const (
	FeatureTTY    = "tty"
	FeatureAttach = "attach"
	FeatureDial   = "dial"
	// FeatureCheckpoint: Freeze and Checkpoint, and apps that are restored.
	FeatureCheckpoint = "checkpoint"
	// FeatureForeground: AttachParams.Foreground.
	FeatureForeground = "foreground"
	// FeatureLaunch: bytes on the launch socket say that a pod ends unless its
	// launcher has started its apps, too.
	FeatureLaunch = "launch"
)

// Request is one call.
type Request struct {
	Major  int             `json:"major"`
	Method Method          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

// Reply is its answer.
type Reply struct {
	Error  *Error          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Error is an errs.Error on its way.
type Error struct {
	Op      string    `json:"op,omitempty"`
	Kind    errs.Kind `json:"kind"`
	Subject string    `json:"subject,omitempty"`
	Message string    `json:"message,omitempty"`
}

// FromError makes err ready to travel.
func FromError(err error) *Error {
	var e *errs.Error
	if !errors.As(err, &e) {
		return &Error{Kind: errs.KindOf(err), Message: err.Error()}
	}
	w := &Error{Op: e.Op, Kind: e.Kind, Subject: e.Subject}
	if e.Err != nil {
		w.Message = e.Err.Error()
	}
	return w
}

// Err gives the error that travelled.
func (w *Error) Err() error {
	var cause error
	if w.Message != "" {
		cause = errors.New(w.Message)
	}
	return errs.New(w.Op, w.Kind, w.Subject, cause)
}

// HelloResult says who answers.
type HelloResult struct {
	Major    int      `json:"major"`
	Minor    int      `json:"minor"`
	Features []string `json:"features,omitempty"`
	PodID    string   `json:"podID"`
	PID      int      `json:"pid"` // of the supervisor, in the host's view
	// Namespaces gives, by OCI namespace type ("network", "ipc", "uts",
	// "pid"), the path of each that the pod has to itself.
	Namespaces map[string]string `json:"namespaces,omitempty"`
}

// StatusResult is a snapshot; Seq is that of the last event it includes.
type StatusResult struct {
	Seq  uint64                     `json:"seq"`
	Apps map[string]manifest.Status `json:"apps"`
}

// AddAppParams announces an app whose directory, with app.json and its OCI
// spec, is in place. Nothing runs yet.
type AddAppParams struct {
	App manifest.App `json:"app"`
}

// AppParams names an app.
type AppParams struct {
	ID string `json:"id"`
}

// SignalParams sends a signal to an app's first process, or to all of its
// processes.
type SignalParams struct {
	ID     string `json:"id"`
	Signal int    `json:"signal"`
	All    bool   `json:"all,omitempty"`
}

// StopParams asks an app to end: Signal first, and SIGKILL to all of its
// processes once Grace is over. A later call may shorten the grace.
type StopParams struct {
	ID      string `json:"id"`
	Signal  int    `json:"signal"`
	GraceMS int64  `json:"graceMS"`
}

// FreezeParams pauses running apps for as long as the caller stays. Whatever
// it sends, and its leaving, thaws them.
type FreezeParams struct {
	Apps []string `json:"apps"`
}

// CheckpointParams writes the processes of an app, which live on, into the
// directory Dir of the host: CRIU's images into CheckpointImages below it, and
// its words into CheckpointLog.
type CheckpointParams struct {
	ID  string `json:"id"`
	Dir string `json:"dir"`
}

// The parts of a checkpoint of an app's processes.
const (
	CheckpointImages = "checkpoint"
	CheckpointLog    = "dump.log"
)

// UpdateParams changes what an app may use.
type UpdateParams struct {
	ID        string             `json:"id"`
	Resources manifest.Resources `json:"resources"`
}

// ExecParams runs a command beside an app, confined as the app is. The
// caller's descriptors are stdin, stdout and stderr; with TTY one, the
// terminal's other side. A caller that goes away takes the command with it.
type ExecParams struct {
	ID   string   `json:"id"`
	Exec string   `json:"exec"` // names this run, for ResizeTTY
	Args []string `json:"args"`
	TTY  bool     `json:"tty,omitempty"`
	// Rows and Cols are the terminal's first size, in characters; 0: unknown.
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
	// TimeoutMS, when not 0, ends the command; the reply is then a Timeout.
	TimeoutMS int64 `json:"timeoutMS,omitempty"`
}

// ExecResult says how a command ended: 128+n when by signal n.
type ExecResult struct {
	ExitCode int `json:"exitCode"`
}

// AttachParams joins the streams of an app. Descriptors that are not wanted
// are those of /dev/null.
type AttachParams struct {
	ID string `json:"id"`
	// Foreground is for whom the app is run: a first reply tells that it is
	// joined, and the app waits for it instead of letting it go
	// (FeatureForeground).
	Foreground bool `json:"foreground,omitempty"`
}

// ResizeParams sets the size of an app's terminal or, with Exec, of a
// command's, in characters.
type ResizeParams struct {
	ID   string `json:"id"`
	Exec string `json:"exec,omitempty"`
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// DialParams connects to a TCP port as seen from inside the pod.
type DialParams struct {
	Port uint16 `json:"port"`
}

// StatsResult counts the pod's interfaces as the supervisor sees them. Stage0,
// which can see them itself as long as both have one kernel, does not ask.
type StatsResult struct {
	Network []InterfaceStats `json:"network,omitempty"`
}

// InterfaceStats are the counters of one interface since it was made.
type InterfaceStats struct {
	Name      string `json:"name"`
	RxBytes   uint64 `json:"rxBytes"`
	RxPackets uint64 `json:"rxPackets"`
	RxErrors  uint64 `json:"rxErrors"`
	RxDropped uint64 `json:"rxDropped"`
	TxBytes   uint64 `json:"txBytes"`
	TxPackets uint64 `json:"txPackets"`
	TxErrors  uint64 `json:"txErrors"`
	TxDropped uint64 `json:"txDropped"`
}

// EventsParams asks for what comes after Since, for as long as the connection
// lasts. Reset events say that some of it is no longer known.
type EventsParams struct {
	Since uint64 `json:"since"`
}

// EventKind says what happened to an app.
type EventKind string

// The kinds.
const (
	EventAdded   EventKind = "added"
	EventStarted EventKind = "started"
	EventExited  EventKind = "exited"
	EventRemoved EventKind = "removed"
	EventOOM     EventKind = "oom"
	// EventReset: events before Seq are forgotten; ask for the Status.
	EventReset EventKind = "reset"
)

// Event is one change. Seq rises by one, from 1, over a supervisor's life.
type Event struct {
	Seq    uint64          `json:"seq"`
	Time   int64           `json:"time"` // ns since the Unix epoch
	Kind   EventKind       `json:"kind"`
	App    string          `json:"app,omitempty"`
	Status manifest.Status `json:"status"`
}

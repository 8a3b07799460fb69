package pod

import "fmt"

// Phase is the directory that a pod's directory lies in.
type Phase string

// The phases, in the order of a pod's life.
const (
	PhasePrepared Phase = "prepared" // of people alone
	PhasePrepare  Phase = "prepare"
	PhaseRun      Phase = "run"
	PhaseGarbage  Phase = "exited-garbage"
)

// Phases lists them all.
func Phases() []Phase { return []Phase{PhasePrepared, PhasePrepare, PhaseRun, PhaseGarbage} }

// State is a phase together with whether someone holds the pod's lock.
type State string

// The states (docs/pod-lifecycle.md).
const (
	Prepared  State = "prepared"  // planned, to be run later
	Preparing State = "preparing" // being made
	Aborted   State = "aborted"   // its maker died, or gave up
	Running   State = "running"   // a supervisor lives
	Exited    State = "exited"    // none lives any more
	Deleting  State = "deleting"  // being swept
	Marked    State = "marked"    // to be swept
)

// stateOf is the whole truth about a pod's state.
func stateOf(phase Phase, locked bool) State {
	states := map[Phase][2]State{
		PhasePrepared: {Prepared, Preparing},
		PhasePrepare:  {Aborted, Preparing},
		PhaseRun:      {Exited, Running},
		PhaseGarbage:  {Marked, Deleting},
	}
	s, known := states[phase]
	if !known {
		panic(fmt.Sprintf("pod phase %q does not exist", phase))
	}
	if locked {
		return s[1]
	}
	return s[0]
}

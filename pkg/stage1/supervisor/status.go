package supervisor

import (
	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/crash"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

func writeStatus(dir manifest.AppDir, st manifest.Status) error {
	crash.Point("supervisor.status.before-" + string(st.State))
	err := atomicfile.WriteRecord(dir.Status(), manifest.KindStatus, st)
	crash.Point("supervisor.status.after-" + string(st.State))
	return err
}

// exitStatus is what becomes of st when the app ended like that. The kernel
// having killed a process of it for want of memory is the reason, whatever the
// app made of it: its users have to know.
func exitStatus(st manifest.Status, end sys.ExitStatus, oomKills uint64) manifest.Status {
	st.State = manifest.AppExited
	st.FinishedAt = now()
	st.ExitCode, st.Signal = end.ExitCode(), int(end.Signal)
	st.OOMKilled = oomKills > 0
	switch {
	case st.OOMKilled:
		st.Reason = manifest.ReasonOOMKilled
	case st.ExitCode == 0:
		st.Reason = manifest.ReasonCompleted
	default:
		st.Reason = manifest.ReasonError
	}
	return st
}

// startError is the status of an app whose process never ran.
func startError(st manifest.Status, err error) manifest.Status {
	st.State = manifest.AppExited
	st.PID = 0
	st.FinishedAt = now()
	st.ExitCode = manifest.ExitStartError
	st.Reason = manifest.ReasonStartError
	st.Message = truncate(err.Error())
	return st
}

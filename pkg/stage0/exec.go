package stage0

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// Exec runs a command in an app, confined as the app is, and waits for it; the
// end of ctx kills it. A command that can't be run is errs.Invalid, one that
// ends is no error, whatever its exit code.
func (e *Engine) Exec(ctx context.Context, app string, r ExecRequest) (exitCode int, err error) {
	const op = "exec in app"
	p, a, err := e.App(app)
	if err != nil {
		return 0, err
	}
	if a.Status.State != manifest.AppRunning {
		return 0, errs.New(op, errs.Precondition, a.Name, errNotRunning)
	}
	files := []*os.File{r.Stdin}
	if !r.TTY {
		files = append(files, r.Stdout, r.Stderr)
	}
	closeNull, err := orNull(files)
	if err != nil {
		return 0, errs.Wrap(op, a.Name, err)
	}
	defer closeNull()
	code, err := e.client(p.Pod.ID).Exec(ctx, wire.ExecParams{
		ID: a.ID, Exec: cmp.Or(r.Name, pod.NewID()), Args: r.Args,
		TTY: r.TTY, Rows: r.Size.Rows, Cols: r.Size.Cols,
	}, files...)
	return code, ofApp(op, a, err)
}

// ofApp is errs.Wrap for what a supervisor says of an app, which it knows by
// its id alone: the name takes that one's place.
func ofApp(op string, a pod.App, err error) error {
	var said *errs.Error
	if errors.As(err, &said) && said.Subject == a.ID && said.Err != nil {
		return errs.New(op, said.Kind, a.Name, said.Err)
	}
	return errs.Wrap(op, a.Name, err)
}

// orNull puts /dev/null in the place of files that are nil, until closeNull.
func orNull(files []*os.File) (closeNull func(), err error) {
	var opened []*os.File
	for i, f := range files {
		if f != nil {
			continue
		}
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			sys.CloseFiles(opened)
			return nil, err
		}
		opened = append(opened, null)
		files[i] = null
	}
	return func() { sys.CloseFiles(opened) }, nil
}

// Exit codes of commands that can't be run, as a shell has them (POSIX, Shell
// Command Language, 2.8.2).
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// CommandExitCode gives a code for a command that can't be run (errs.Invalid).
// What is not there and what can't be executed OCI runtimes tell apart in
// words only.
func CommandExitCode(err error) int {
	words := strings.ToLower(err.Error())
	if strings.Contains(words, "not found") || strings.Contains(words, "no such file") {
		return exitNotFound
	}
	return exitNotExecutable
}

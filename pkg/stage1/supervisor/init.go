package supervisor

import (
	"io"
	"os"
	"os/signal"

	"github.com/stagelet/stagelet/internal/sys"
)

// Init is process 1 of a PID namespace that apps share. It reaps, and does
// nothing else: a parent that ignores SIGCHLD has no zombies (wait(2)). Its
// standard input is a pipe whose other end the supervisor holds, so it ends,
// and with it all of the namespace, when the supervisor does, however that
// comes about. Apps see it, so it has no file system and no privilege that one
// of them could get at.
func Init() error {
	signal.Ignore() // an app must not end the pod by a signal
	if err := sys.EnterEmptyRoot(); err != nil {
		return err
	}
	if err := sys.Forsake(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

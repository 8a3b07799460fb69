package supervisor

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

const (
	// thawTime bounds how long it may take to let an app go on.
	thawTime = 20 * time.Second
	// dumpPatience is how long CRIU may go on after its caller left: processes
	// in which it is at work should not lose it.
	dumpPatience = 10 * time.Second
)

// freeze pauses apps for as long as the caller stays, so that nobody's death
// leaves an app paused but ours, which ends it.
func (s *Supervisor) freeze(ctx context.Context, c *call, p wire.FreezeParams) (reply, error) {
	const op = "freeze apps"
	for _, id := range p.Apps {
		if _, _, err := s.running(op, id); err != nil {
			return reply{}, err
		}
	}
	err := s.each(p.Apps, func(id string) error {
		return s.runtime.invoke(ctx, command{args: []string{"pause", id}, patience: thawTime})
	})
	if err == nil {
		s.sendFirst(c.conn)
		<-ctx.Done()
	}
	return reply{}, errs.Wrap(op, "", errors.Join(err, s.thaw(p.Apps)))
}

// thaw lets apps go on, those that have not ended meanwhile.
func (s *Supervisor) thaw(apps []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), thawTime)
	defer cancel()
	return s.each(apps, func(id string) error {
		err := s.runtime.invoke(ctx, command{args: []string{"resume", id}})
		if _, _, gone := s.running("thaw", id); gone == nil {
			return err
		}
		return nil // it has ended
	})
}

// each does something for all apps at once.
func (s *Supervisor) each(apps []string, do func(id string) error) error {
	all := make([]error, len(apps))
	var wait sync.WaitGroup
	for i, id := range apps {
		wait.Go(func() { all[i] = do(id) })
	}
	wait.Wait()
	return errors.Join(all...)
}

// checkpoint writes the processes of an app to a directory of the host, which
// is seen in our own mount namespace only for that time.
func (s *Supervisor) checkpoint(ctx context.Context, _ *call, p wire.CheckpointParams) (reply, error) {
	const op = "checkpoint app"
	a, _, err := s.running(op, p.ID)
	if err != nil {
		return reply{}, err
	}
	trees, err := sys.InMountNS(ctx, s.host, func() ([]*os.File, error) {
		tree, err := sys.CloneTree(p.Dir)
		return []*os.File{tree}, err
	})
	if err != nil {
		return reply{}, errs.Wrap(op, p.Dir, err)
	}
	defer sys.CloseFiles(trees)
	at := s.runtime.path(".checkpoint")
	defer func() { _ = errors.Join(sys.DetachTree(at), os.Remove(at)) }()
	if err := sys.AttachTree(trees[0], at); err != nil {
		return reply{}, errs.Wrap(op, p.Dir, err)
	}
	err = s.runtime.invoke(ctx, command{
		args: []string{
			"checkpoint", "--leave-running", "--file-locks", "--image-path", filepath.Join(at, wire.CheckpointImages),
			"--work-path", at, a.id,
		},
		patience: dumpPatience,
	})
	return reply{}, errs.Wrap(op, a.id, explain(err, filepath.Join(at, wire.CheckpointLog)))
}

// explain adds to an error of the runtime's what CRIU wrote about it.
func explain(err error, log string) error {
	if !errors.Is(err, errs.Invalid) { // it did not come to a refusal
		return err
	}
	if words := criuWords(log); words != "" {
		err = errors.New(words)
	}
	return errs.New("run CRIU", errs.Precondition, "", err)
}

// maxWords bounds what is told of CRIU's log, and how much of it is read, in
// bytes.
const (
	maxWords   = 600
	maxCRIULog = 16 << 20
)

// criuWords gives the errors that CRIU logged, the first ones: they are the
// causes of the others.
func criuWords(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	var words []string
	size := 0
	for lines := bufio.NewScanner(io.LimitReader(f, maxCRIULog)); lines.Scan() && size < maxWords; {
		if _, text, found := strings.Cut(lines.Text(), "Error "); found {
			words = append(words, text)
			size += len(text)
		}
	}
	text := strings.Join(words, "; ")
	return strings.ToValidUTF8(text[:min(len(text), maxWords)], "")
}

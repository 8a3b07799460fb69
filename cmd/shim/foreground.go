package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/cmd/shim/internal/terminal"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/pipes"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/stage0"
)

// foreground is a pod that somebody watches until it ends. Its apps aren't
// started yet.
type foreground struct {
	engine *stage0.Engine
	pod    stage0.Launched
	names  []string // of the apps, those of Init first
	to     streams
	term   termFlags
	size   terminal.Size // that its terminal begins with
	detach []byte        // keys

	started bool // all apps are

	mu      sync.Mutex
	stops   int  // how often it was asked to end
	left    bool // whoever watched went away, and it goes on if it was started
	leave   context.CancelFunc
	stopped sync.WaitGroup
}

// show runs a pod that was launched in the foreground. Its terminal is of size
// now; zero: it is to be set.
func show(ctx context.Context, e *stage0.Engine, l stage0.Launched, to streams, size terminal.Size, detach []byte) error {
	p, err := e.Pod(l.Pod)
	if err != nil {
		return ours(err)
	}
	f := &foreground{engine: e, pod: l, to: to, size: size, detach: detach}
	for _, id := range f.ids() {
		a, _ := p.App(id)
		f.names = append(f.names, a.Name)
		f.term.tty, f.term.interactive = a.TTY, a.Stdin
	}
	if len(f.names) > 1 {
		f.term = termFlags{} // which of them would have it?
	}
	return f.run(ctx)
}

// ids of all apps, those of Init first.
func (f *foreground) ids() []string {
	return append(append([]string(nil), f.pod.Init...), f.pod.Apps...)
}

// run starts the apps and shows their output until all have ended. The error
// has their exit code.
func (f *foreground) run(ctx context.Context) error {
	interrupted := ctx
	ctx = context.WithoutCancel(ctx) // signals stop the pod instead
	watch, leave := context.WithCancel(ctx)
	defer leave()
	f.leave = leave
	defer f.signals(ctx, interrupted)()
	s, err := newSession(f.to, f.term, f.detach, func(w terminal.Wish) { f.wish(ctx, w) })
	defer s.end()
	if err == nil {
		err = f.watch(watch, s)
	}
	left := f.away() && f.started
	if err != nil && !left {
		err = errors.Join(err, f.engine.StopPod(ctx, f.pod.Pod))
	}
	f.stopped.Wait()
	s.end()
	if left {
		_, err := fmt.Fprintf(f.to.err, "%s goes on; stagelet attach %[1]s joins it again\n", f.pod.Pod[:shortID])
		return err
	}
	if err != nil {
		return notRun(err)
	}
	return f.outcome()
}

// watch joins the apps' streams, starts them and waits for the pod's end, or
// until whoever watches goes away.
func (f *foreground) watch(ctx context.Context, s *session) error {
	joined, err := f.join(ctx, s)
	if err == nil || f.away() {
		go s.term.Guard(func() {
			s.resized(ctx, f.size, func(size stage0.TerminalSize) { _ = f.engine.Resize(ctx, f.pod.Apps[0], "", size) })
		})
		err = startAll(context.WithoutCancel(ctx), f.engine, f.pod) // what is half started doesn't go on
		f.started = err == nil
	}
	if err == nil {
		_, err = f.engine.WaitPod(ctx, f.pod.Pod)
	} else {
		f.leave() // nothing of them is to come
	}
	for _, done := range joined {
		<-done
	}
	return err
}

// join attaches to all apps; each channel is closed once all output of one is
// out.
func (f *foreground) join(ctx context.Context, s *session) (done []<-chan struct{}, err error) {
	ids := f.ids()
	ready := make(chan error, len(ids))
	var out sync.Mutex // of both streams: they may be one file
	for i, id := range ids {
		ended := make(chan struct{})
		done = append(done, ended)
		to := pipes.Client{Out: f.sink(ctx, f.to.out), Err: f.sink(ctx, f.to.err)}
		if len(ids) > 1 {
			prefix := f.names[i] + " | "
			to.Out = f.sink(ctx, &lines{mu: &out, to: f.to.out, prefix: prefix})
			to.Err = f.sink(ctx, &lines{mu: &out, to: f.to.err, prefix: prefix})
		} else {
			to.In = s.inputOnce(ctx, f.term)
		}
		go s.term.Guard(func() {
			defer close(ended)
			var once sync.Once
			tell := func(err error) { once.Do(func() { ready <- err }) }
			tell(f.attach(ctx, id, to, func() { tell(nil) }))
		})
	}
	for range ids {
		err = errors.Join(err, <-ready)
	}
	return done, err
}

// attach shows one app until it ends.
func (f *foreground) attach(ctx context.Context, id string, to pipes.Client, joined func()) error {
	if f.term.tty {
		to.Err = nil
	}
	p, err := pipes.Join(to)
	if err != nil {
		return err
	}
	defer p.Close()
	err = f.engine.Attach(ctx, id, stage0.AttachRequest{
		Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, Joined: joined,
	})
	drain(ctx, p)
	return err
}

// sink is where output goes. When nobody reads it any more, the pod is asked
// to end, as a program would be by SIGPIPE.
func (f *foreground) sink(ctx context.Context, w io.Writer) io.WriteCloser {
	var once sync.Once
	return sink{w, func() { once.Do(func() { f.stop(ctx, stopGrace) }) }}
}

// signals makes signals stop the pod: the first one gently. undo ends that.
func (f *foreground) signals(ctx, interrupted context.Context) (undo func()) {
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE) // writing says so too
	unhand := onSignal(interrupted, func(syscall.Signal) { f.stop(ctx, stopGrace) })
	return func() {
		signal.Stop(broken)
		unhand()
	}
}

// wish does what keys ask for.
func (f *foreground) wish(ctx context.Context, w terminal.Wish) {
	switch w {
	case terminal.Detach:
		f.mu.Lock()
		f.left = true
		f.mu.Unlock()
		f.leave()
	case terminal.Kill:
		f.stop(ctx, 0)
	case terminal.Nothing:
	}
}

// stop asks the pod to end, and the second time ends it by force, as it does
// without a grace.
func (f *foreground) stop(ctx context.Context, grace time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stops++
	if f.left || f.stops > 2 {
		return
	}
	gently := f.stops == 1 && grace > 0
	f.stopped.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
		var err error
		if gently {
			err = f.engine.StopPodGently(ctx, f.pod.Pod, stage0.Stopping{Grace: grace})
		} else {
			err = f.engine.StopPod(ctx, f.pod.Pod)
		}
		if err != nil {
			warn(err, "stop the pod")
		}
	})
}

func (f *foreground) away() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left
}

// outcome gives the exit code of the pod: the first that isn't 0 of its apps.
func (f *foreground) outcome() error {
	p, err := f.engine.Pod(f.pod.Pod)
	if err != nil {
		return ours(err)
	}
	if p.State == pod.Running {
		return ours(errs.New("wait for pod", errs.Internal, f.pod.Pod, errors.New("it still runs")))
	}
	for _, id := range f.ids() {
		a, found := p.App(id)
		switch {
		case !found:
			return ours(errs.New("find outcome of app", errs.NotFound, id, nil))
		case a.Status.OOMKilled:
			return appExit{a.Status.ExitCode, errs.New("run app", errs.Exhausted, a.Name, errors.New("it needed more memory than it may have: see --memory"))}
		case a.Status.ExitCode != 0:
			return ended(a.Status.ExitCode)
		}
	}
	return nil
}

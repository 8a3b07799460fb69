package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/cri"
	"github.com/stagelet/stagelet/pkg/stage0"
)

func serveCommand(s *settings) *cobra.Command {
	var verbosity int
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve kubelet and crictl over CRI",
		Long: `Serve the Kubernetes Container Runtime Interface on a unix socket until
interrupted. Pods outlive the server: the next start takes them up again.

With web.listen set, a web page shows the node and takes images. Its address,
with the token that lets in, is printed.

Point kubelet at it with
  --container-runtime-endpoint=unix:///run/stagelet/stagelet.sock
and crictl with
  --runtime-endpoint=unix:///run/stagelet/stagelet.sock`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := s.config()
			if err != nil {
				return err
			}
			if err := logAt(verbosity); err != nil {
				return err
			}
			defer klog.Flush()
			return serve(c.Context(), config, c.OutOrStdout())
		},
	}
	c.Flags().IntVarP(&verbosity, "verbosity", "v", 0, "log level: 0 changes of state, 2 every RPC, 4 every step")
	return c
}

func logAt(verbosity int) error {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	return flags.Set("v", strconv.Itoa(verbosity))
}

// drainTimeout is how long RPCs under way may take when the server ends;
// what they began goes on, or is taken up by the next start.
const drainTimeout = 5 * time.Second

func serve(ctx context.Context, c *config, out io.Writer) (err error) {
	begun := time.Now()
	unlock, err := lockServer(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := openNode(c)
	if err != nil {
		return err
	}
	metadataEnded := serveMetadata(c, n)
	defer func() { err = errors.Join(err, n.close()); metadataEnded() }()
	if err := n.engine.Recover(ctx); err != nil {
		return err
	}
	n.engine.WatchPods()
	n.engine.ServePlugins(ctx)
	listener, err := listen(ctx, c.socket())
	if err != nil {
		return err
	}
	// Kubelet hands the streams on, so nobody but this host needs to reach them.
	streams, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return errs.Wrap("listen for streams", "", err)
	}
	server := grpc.NewServer(cri.ServerOptions(klog.Background())...)
	services := cri.New(n.engine, n.images, cri.Options{
		Version: version(), StateDir: c.Root, RunDir: c.Run, StreamAddress: streams.Addr().String(),
	})
	services.Register(server)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	page, err := servePage(ctx, c, n, out)
	if err != nil {
		return err
	}
	defer func() { cancel(); page.Wait() }()
	go func() {
		if err := services.ServeStreams(ctx, streams); err != nil {
			klog.ErrorS(err, "No more streams")
		}
	}()
	go collect(ctx, n, c)
	go func() {
		<-ctx.Done()
		n.engine.Hangup()
		hard := time.AfterFunc(drainTimeout, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
	}()
	klog.InfoS("Serving", "socket", c.socket(), "streams", streams.Addr(), "version", version(), "pods", n.engine.Count(), "startup", time.Since(begun))
	return server.Serve(listener)
}

// lockPatience is how long a lock may outlive the server that was killed: a
// child that it was about to start has a copy until its exec.
const lockPatience = 2 * time.Second

// serverLock is the directory that the server holds the lock of.
func serverLock(c *config) string { return filepath.Join(c.Run, "server") }

// lockServer makes sure that one server at most works on a set of
// directories.
func lockServer(ctx context.Context, c *config) (unlock func(), err error) {
	dir := serverLock(c)
	// Root of a user namespace is nobody here, and has to pass to its pod's
	// root file systems.
	err = os.MkdirAll(c.Run, 0o711)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, errs.Wrap("serve", dir, err)
	}
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		lock, err := sys.LockDir(dir)
		if err == nil {
			return func() { _ = sys.UnlockDir(lock) }, nil
		}
		if !errors.Is(err, errs.Precondition) {
			return nil, err
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errs.New("serve", errs.Precondition, c.Run, errors.New("another server runs there; stop it, or choose other directories with --root and --run"))
		}
	}
}

// listen takes the place of a socket that a dead server left. We hold the
// server's lock, so nobody serves there.
func listen(ctx context.Context, path string) (net.Listener, error) {
	const op = "listen"
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket == 0 {
		return nil, errs.New(op, errs.Exists, path, errors.New("is there and is no socket"))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errs.Wrap(op, path, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, errs.Wrap(op, path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errs.Wrap(op, path, errors.Join(err, l.Close()))
	}
	return l, nil
}

// collect cleans up now and then, until the server ends.
func collect(ctx context.Context, n *node, c *config) {
	for {
		if err := n.engine.GC(ctx, stage0.Periods{Grace: c.grace(), ExpirePrepared: stage0.DefaultExpirePrepared}); err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "Could not clean up everything")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.interval()):
		}
	}
}

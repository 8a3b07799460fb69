// Command cri loads CRI runtimes and says what a pod costs in each: latency of
// every phase, pods a second, CPU and memory a pod. Several endpoints are
// measured in one run, turn by turn, so that they share whatever else the
// machine is doing.
//
//	cri -endpoint stagelet=unix:///run/stagelet/stagelet.sock,procs=^stagelet \
//	    -endpoint containerd=unix:///run/containerd/containerd.sock,procs=^containerd
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// options is what the command line says.
type options struct {
	endpoints endpoints
	image     string
	logDir    string
	alone     int // pods one at a time
	crowd     int // pods that live at the same time
	parallel  int
	settle    time.Duration
	bare      bool
	hostNet   bool
}

func main() {
	var o options
	flag.Var(&o.endpoints, "endpoint", "`NAME=SOCKET[,procs=REGEXP][,cgroup=PATH]`, may be repeated. procs names the runtime's processes, cgroup the one "+
		"that holds them and is to hold the pods; CPU and memory are those of the cgroup, or of the processes without one")
	flag.StringVar(&o.image, "image", "localhost/stagelet/busybox:latest", "`image` with a shell; pulled if it is not there")
	flag.StringVar(&o.logDir, "log-dir", filepath.Join(os.TempDir(), "stagelet-bench-logs"), "`directory` for the logs of pods")
	flag.IntVar(&o.alone, "alone", 20, "pods to run one after the other")
	flag.IntVar(&o.crowd, "n", 50, "pods to have at the same time")
	flag.IntVar(&o.parallel, "p", 10, "calls to make at the same time, for those")
	flag.DurationVar(&o.settle, "settle", 2*time.Second, "rest before memory is looked at")
	flag.BoolVar(&o.bare, "bare", false, "leave out limits, seccomp, masked paths and mounts, which kubelet sets")
	flag.BoolVar(&o.hostNet, "host-network", false, "pods without a network of their own")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx = klog.NewContext(ctx, klog.Logger{}) // the client logs what it returns
	err := run(ctx, &o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) error {
	if len(o.endpoints) == 0 || flag.NArg() > 0 || o.crowd < 1 || o.parallel < 1 {
		flag.Usage()
		return errors.New("name one endpoint at least")
	}
	var targets []*target
	for _, e := range o.endpoints {
		t, err := connect(ctx, e, o)
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		targets = append(targets, t)
	}
	err := measure(ctx, o, targets)
	for _, t := range targets {
		err = errors.Join(err, t.cleanUp(context.WithoutCancel(ctx)))
	}
	report(os.Stdout, o, targets)
	return err
}

// measure does all stages, each on every target.
func measure(ctx context.Context, o *options, targets []*target) error {
	for _, t := range targets {
		if err := t.warmUp(ctx); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	for i := range o.alone {
		for _, t := range targets {
			if err := t.onePod(ctx, i); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	for _, t := range targets {
		if err := t.manyPods(ctx); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return nil
}

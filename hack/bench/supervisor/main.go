// Supervisor measures one idle supervisor: what the kernel charges to its
// memory cgroup, and how long after exec it is ready.
//
//	go run ./hack/bench/supervisor [-n 30] [-idle 2s] [-pid pod] bin/stagelet-stage1
//
// It needs root. Each run is a pod of its own with network, IPC and UTS
// namespaces and no app in it.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/stagelet/stagelet/internal/atomicfile"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

type bench struct {
	program, runc string
	idle          time.Duration
	pid           manifest.NamespaceMode
	cgroups       sys.Cgroups
	base          string
}

// figures of one run.
type figures struct {
	ready, launched time.Duration // since exec; since before fork
	charge, settled uint64        // bytes; as the kernel says at first, and less what it charged in advance
	rss             uint64        // bytes of it that are anonymous
}

func main() {
	n := flag.Int("n", 30, "runs")
	idle := flag.Duration("idle", 2*time.Second, "time before memory is read")
	pid := flag.String("pid", string(manifest.NamespaceApp), "PID namespace of the pod: app or pod")
	flag.Parse()
	b := bench{program: flag.Arg(0), idle: *idle, pid: manifest.NamespaceMode(*pid)}
	if err := b.run(*n); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(n int) (err error) {
	if b.program == "" {
		return errors.New("say which supervisor: bin/stagelet-stage1")
	}
	if b.program, err = filepath.Abs(b.program); err != nil {
		return err
	}
	if b.runc, err = exec.LookPath("runc"); err != nil {
		return err
	}
	if b.cgroups, err = sys.DetectCgroups(); err != nil {
		return err
	}
	if b.base, err = os.MkdirTemp("", "stagelet-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.base)) }()
	var all []figures
	for i := range n {
		idle := b.idle
		if i >= 3 { // memory hardly differs from run to run
			idle = 0
		}
		f, err := b.one("bench"+strconv.Itoa(os.Getpid())+"-"+strconv.Itoa(i), idle)
		if err != nil {
			return err
		}
		all = append(all, f)
	}
	median := func(of func(figures) float64, of2 []figures) float64 {
		values := make([]float64, len(of2))
		for i, f := range of2 {
			values[i] = of(f)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	measured := all[:min(3, len(all))]
	fmt.Printf("ready after exec      %8.2f ms (median of %d)\n", median(func(f figures) float64 { return f.ready.Seconds() * 1e3 }, all), n)
	fmt.Printf("ready after launch    %8.2f ms\n", median(func(f figures) float64 { return f.launched.Seconds() * 1e3 }, all))
	fmt.Printf("charge, idle          %8.0f KB (kernel side included; %v after the launch)\n",
		median(func(f figures) float64 { return float64(f.charge) / 1024 }, measured), b.idle)
	fmt.Printf("less advance charges  %8.0f KB\n", median(func(f figures) float64 { return float64(f.settled) / 1024 }, measured))
	fmt.Printf("of it anonymous       %8.0f KB\n", median(func(f figures) float64 { return float64(f.rss) / 1024 }, measured))
	return nil
}

func (b *bench) one(id string, idle time.Duration) (f figures, err error) {
	dir := manifest.Dir(filepath.Join(b.base, "pods", "run", id))
	run := manifest.RunDir(filepath.Join(b.base, "r", id))
	for _, d := range []string{string(dir), string(run)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return f, err
		}
	}
	p := manifest.Pod{Version: manifest.Version, ID: id, CgroupParent: "/" + id, Namespaces: manifest.Namespaces{
		Network: manifest.NamespacePod, IPC: manifest.NamespacePod, PID: b.pid,
	}}
	pinned := manifest.Stage1{Version: manifest.Version, Executor: manifest.Executor{Runtime: manifest.Artifact{Path: b.runc}, Exit: manifest.ExitReap}}
	if err := errors.Join(
		atomicfile.WriteRecord(dir.Pod(), manifest.KindPod, p),
		atomicfile.WriteRecord(dir.Stage1(), manifest.KindStage1, pinned),
		b.cgroups.Create("/"+id)); err != nil {
		return f, err
	}
	netns := filepath.Join(b.base, id+".netns")
	if err := sys.NewNetNS(netns); err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, sys.RemoveNetNS(netns), b.cgroups.Remove("/"+id)) }()
	process, hold, err := b.launch(dir, run, netns, &f)
	if err != nil {
		return f, err
	}
	defer func() {
		_ = process.Kill()
		_, _ = process.Wait()
		_ = hold.Close()
	}()
	if idle > 0 {
		time.Sleep(idle)
		st, err := b.cgroups.Stats("/" + id)
		if err != nil {
			return f, err
		}
		f.charge, f.rss = st.Memory.Usage, st.Memory.RSS
		// Up to 64 pages are charged in advance on every processor. Version 1
		// has a file that takes them back, with what can be had back at once.
		if os.WriteFile("/sys/fs/cgroup/memory/"+id+"/memory.force_empty", []byte("1"), 0) == nil {
			if st, err = b.cgroups.Stats("/" + id); err != nil {
				return f, err
			}
		}
		f.settled = st.Memory.Usage
	}
	return f, nil
}

func (b *bench) launch(dir manifest.Dir, run manifest.RunDir, netns string, f *figures) (*os.Process, *sys.Conn, error) {
	lock, err := sys.LockDir(string(dir))
	if err != nil {
		return nil, nil, err
	}
	defer lock.Close()
	host, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		return nil, nil, err
	}
	defer host.Close()
	hold, theirs, err := sys.SocketPair()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	launched := time.Now()
	process, err := sys.Launch{
		Path: b.program, Args: []string{"stagelet-stage1", "run", string(dir), string(run)},
		Env:        []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1"},
		Files:      []*os.File{os.Stdin, os.Stdout, os.Stderr, lock, host, theirs},
		Namespaces: syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Prepare: func() error {
			return errors.Join(sys.EnterNetNS(netns), b.cgroups.Enter("/"+filepath.Base(string(dir))))
		},
	}.Start()
	if err != nil {
		return nil, nil, err
	}
	executed := time.Now()
	var r wire.Reply
	if _, err := wire.Recv(hold, &r); err != nil {
		return nil, nil, err
	}
	f.ready, f.launched = time.Since(executed), time.Since(launched)
	if r.Error != nil {
		return nil, nil, r.Error.Err()
	}
	var hello wire.HelloResult
	return process, hold, json.Unmarshal(r.Result, &hello)
}

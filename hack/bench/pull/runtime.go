package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"
)

// runtime is one that serves CRI.
type runtime struct {
	title, socket string
	procs         *regexp.Regexp // of the names of its processes
	pid           int            // instead, when it is our own
	stop          func() error   // may be nil
}

func (r *runtime) name() string { return r.title }

func (r *runtime) close() error {
	if r.stop == nil {
		return nil
	}
	return r.stop()
}

func (r *runtime) connect(ctx context.Context) (internalapi.ImageManagerService, error) {
	return remote.NewRemoteImageServiceBuilder().WithEndpoint(r.socket).WithConnectionTimeout(10 * time.Minute).WithTracerProvider(nil).Build(ctx)
}

func (r *runtime) remove(ctx context.Context, ref string) error {
	images, err := r.connect(ctx)
	if err != nil {
		return err
	}
	return errors.Join(images.RemoveImage(ctx, &cri.ImageSpec{Image: ref}), images.Close(ctx))
}

func (r *runtime) pull(ctx context.Context, ref string) (got result, err error) {
	images, err := r.connect(ctx)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, images.Close(ctx)) }()
	processes := r.processes()
	if len(processes) == 0 {
		return got, errors.New("it has no processes")
	}
	for _, dir := range processes {
		_ = os.WriteFile(filepath.Join(dir, "clear_refs"), []byte("5"), 0) // the peak of memory begins anew
	}
	peak := watchMemory(r.pids()...)
	user, system := cpu(processes)
	begun := time.Now()
	if _, err := images.PullImage(ctx, &cri.ImageSpec{Image: ref}, nil, nil); err != nil {
		return got, err
	}
	got.wall, got.peak = time.Since(begun), peak()
	got.user, got.system = cpu(r.processes())
	got.user, got.system = got.user-user, got.system-system
	return got, nil
}

// processes gives the /proc directories of the runtime's processes.
func (r *runtime) processes() (dirs []string) {
	if r.pid != 0 {
		return []string{filepath.Join("/proc", strconv.Itoa(r.pid))}
	}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if comm, err := os.ReadFile(filepath.Join(dir, "comm")); err == nil && r.procs.Match(bytes.TrimSpace(comm)) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func (r *runtime) pids() (pids []int) {
	for _, dir := range r.processes() {
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// startStagelet starts a server with directories of its own, that accepts
// what the registry at host has.
func startStagelet(ctx context.Context, o *options, host string) (*runtime, error) {
	dir, err := filepath.Abs(filepath.Join(o.dir, "stagelet"))
	if err != nil {
		return nil, err
	}
	rules := filepath.Join(dir, "trust", "prefix.d", host)
	if err := errors.Join(os.MkdirAll(rules, 0o755), os.MkdirAll(filepath.Join(dir, "cni"), 0o755)); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(rules, "insecure.yaml"), []byte("insecure: true\n"), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := exec.CommandContext(ctx, o.stagelet, "serve", "--root", filepath.Join(dir, "lib"), "--run", filepath.Join(dir, "run"),
		"--netns-dir", filepath.Join(dir, "netns"), "--cni-conf-dir", filepath.Join(dir, "cni"),
		"--trust-dir", filepath.Join(dir, "trust"), "--certs-dir", filepath.Join(dir, "certs"), "--auth-dir", filepath.Join(dir, "auth"))
	c.Stderr = log
	if err := c.Start(); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "run", "stagelet.sock")
	r := &runtime{title: "stagelet", socket: "unix://" + socket, pid: c.Process.Pid}
	r.stop = func() error {
		_ = c.Process.Signal(syscall.SIGTERM)
		return c.Wait()
	}
	for range 500 {
		if conn, err := new(net.Dialer).DialContext(ctx, "unix", socket); err == nil {
			return r, conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	return nil, errors.Join(fmt.Errorf("stagelet doesn't answer: %s", text), r.stop())
}

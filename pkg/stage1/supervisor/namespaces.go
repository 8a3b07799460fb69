package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/sys"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
	"github.com/stagelet/stagelet/pkg/stage1/wire"
)

// shmSize is that of a pod's /dev/shm, in bytes: what containers are used to.
const shmSize = 64 << 20

// enterMounts leaves of the host's mounts those that a supervisor needs. All
// other paths of the host are opened in the host's namespace when it is time.
func (s *Supervisor) enterMounts() error {
	if err := os.MkdirAll(string(s.run), 0o700); err != nil {
		return err
	}
	err := sys.Root{
		Trees: []string{"/proc", "/sys", "/dev", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64"},
		Paths: []string{filepath.Dir(filepath.Dir(string(s.dir))), string(s.run), s.runtime.exec.Runtime.Path},
		At:    string(s.run),
	}.Enter()
	if errors.Is(err, errs.Unsupported) {
		s.complain("all mounts of the host stay visible: %v", err)
		return nil
	}
	return err
}

// setUpNamespaces dresses the namespaces that we were born into, and makes the
// pod's PID namespace if it is to have one.
func (s *Supervisor) setUpNamespaces() error {
	ns := s.pod.Namespaces
	s.hello = wire.HelloResult{
		Major: wire.Major, Minor: wire.Minor,
		Features: []string{wire.FeatureTTY, wire.FeatureAttach, wire.FeatureDial},
		PodID:    s.pod.ID, PID: os.Getpid(), Namespaces: map[string]string{},
	}
	own := func(kind, name string, pid int) {
		s.hello.Namespaces[kind] = fmt.Sprintf("/proc/%d/ns/%s", pid, name)
	}
	if ns.Network == manifest.NamespacePod {
		own("network", "net", s.hello.PID)
		own("uts", "uts", s.hello.PID)
		if s.pod.Hostname != "" {
			if err := sys.SetHostname(s.pod.Hostname); err != nil {
				return errs.New("set hostname", errs.Invalid, fmt.Sprintf("%.128s", s.pod.Hostname), err)
			}
		}
	}
	if ns.IPC == manifest.NamespacePod {
		own("ipc", "ipc", s.hello.PID)
		if err := sys.MountTmpfs(s.run.Shm(), shmSize); err != nil {
			return err
		}
	}
	if err := setSysctls(s.pod); err != nil {
		return err
	}
	if ns.PID == manifest.NamespacePod {
		pid, err := s.startInit()
		if err != nil {
			return err
		}
		own("pid", "pid", pid)
	}
	return nil
}

// startInit starts process 1 of the PID namespace that the apps share. With
// it the kernel ends all processes of the namespace; it ends with us, who hold
// the other end of its standard input.
func (s *Supervisor) startInit() (pid int, err error) {
	const op = "start init"
	hold, stdin, err := sys.Pipe(sys.WriteEnd)
	if err != nil {
		return 0, errs.Wrap(op, s.pod.ID, err)
	}
	defer stdin.Close()
	c, err := s.reaper.spawn(sys.Process{
		Path: "/proc/self/exe", Args: []string{"stagelet-stage1", "init"}, Env: []string{"GOMAXPROCS=1"},
		Dir: "/", Files: []*os.File{stdin, s.runtime.null, s.runtime.null},
		Namespaces: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
	})
	if err != nil {
		hold.Close()
		return 0, errs.Wrap(op, s.pod.ID, err)
	}
	go func() {
		defer hold.Close()
		<-c.done
		s.complain("init of the shared PID namespace %s: no app of the pod can run any more", c.status)
	}()
	return c.pid, nil
}

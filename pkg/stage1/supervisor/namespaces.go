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

// setUpNamespaces dresses the namespaces that we were born into, and makes
// those that are ours to make: the pod's PID namespace, and all of them when
// the pod has a user namespace, which is to own them.
func (s *Supervisor) setUpNamespaces() error {
	ns := s.pod.Namespaces
	s.hello = wire.HelloResult{
		Major: wire.Major, Minor: wire.Minor,
		Features: []string{wire.FeatureTTY, wire.FeatureAttach, wire.FeatureDial, wire.FeatureCheckpoint, wire.FeatureForeground, wire.FeatureLaunch},
		PodID:    s.pod.ID, PID: os.Getpid(), Namespaces: map[string]string{},
	}
	if ns.User != nil {
		if err := s.enterUserNamespace(); err != nil {
			return err
		}
	} else if ns.PID == manifest.NamespacePod {
		if _, err := s.startInit(nil, syscall.CLONE_NEWPID); err != nil {
			return err
		}
	}
	if ns.Network == manifest.NamespacePod {
		s.own("network", "net", s.hello.PID)
		s.own("uts", "uts", s.hello.PID)
		if s.pod.Hostname != "" {
			if err := sys.SetHostname(s.pod.Hostname); err != nil {
				return errs.New("set hostname", errs.Invalid, fmt.Sprintf("%.128s", s.pod.Hostname), err)
			}
		}
	}
	if ns.IPC == manifest.NamespacePod {
		s.own("ipc", "ipc", s.hello.PID)
		shm := sys.Tmpfs{Name: "shm", Size: shmSize, Mode: 0o1777, Owner: s.root, Data: true}
		if err := shm.Mount(s.run.Shm()); err != nil {
			return err
		}
	}
	if err := s.mountMemory(); err != nil {
		return err
	}
	return setSysctls(s.pod, s.root)
}

// own says that the pod has the namespace of process pid to itself.
func (s *Supervisor) own(kind, name string, pid int) {
	s.hello.Namespaces[kind] = fmt.Sprintf("/proc/%d/ns/%s", pid, name)
}

// enterUserNamespace makes the pod's user namespace and the others that are to
// be owned by it: only then can its root mount their file systems and set
// their sysctls. A process can't enter a user namespace that has threads, nor
// do we want to: we stay the host's root, in the pod's other namespaces.
func (s *Supervisor) enterUserNamespace() error {
	const op = "make user namespace"
	ns := s.pod.Namespaces
	uid, gid, err := ns.User.Host(0, 0)
	if err != nil {
		return errs.Wrap(op, s.pod.ID, err)
	}
	s.root = sys.Owner{UID: uid, GID: gid}
	// Runtimes give an app its standard streams for its own, and crun does not
	// except the host's /dev/null.
	_ = s.runtime.null.Close()
	if s.runtime.null, err = sys.PrivateNull(s.runtime.scratch); err != nil {
		return err
	}
	var ours, all uintptr
	if ns.Network == manifest.NamespacePod {
		ours |= syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS
	}
	if ns.IPC == manifest.NamespacePod {
		ours |= syscall.CLONE_NEWIPC
	}
	if all = ours; ns.PID == manifest.NamespacePod {
		all |= syscall.CLONE_NEWPID
	}
	first, err := s.startInit(&sys.UserMap{UIDs: idMap(ns.User.UIDs), GIDs: idMap(ns.User.GIDs)}, all)
	if err != nil {
		return err
	}
	if s.users, err = sys.OpenUserNS(first.pid); err != nil {
		return err
	}
	s.hello.Namespaces["user"] = fmt.Sprintf("/proc/%d/fd/%d", s.hello.PID, s.users.Fd())
	if ours != 0 {
		if err := sys.JoinNamespaces(first.pid, ours); err != nil {
			return err
		}
	}
	if ns.Network == manifest.NamespacePod {
		if err := sys.LoopbackUp(); err != nil {
			return errs.Wrap(op, s.pod.ID, err)
		}
	}
	if ns.PID == manifest.NamespacePod {
		return nil
	}
	return s.reaper.signal(first, syscall.SIGKILL) // we hold what it was there for
}

func idMap(maps []manifest.IDMapping) []syscall.SysProcIDMap {
	list := make([]syscall.SysProcIDMap, len(maps))
	for i, m := range maps {
		list[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Length)}
	}
	return list
}

// startInit starts the first process of new namespaces, beside the mount
// namespace that it always has. With CLONE_NEWPID it is process 1 of the PID
// namespace that the apps share: with it the kernel ends all processes there.
// It ends with us, who hold the other end of its standard input.
func (s *Supervisor) startInit(users *sys.UserMap, namespaces uintptr) (*child, error) {
	const op = "start init"
	hold, stdin, err := sys.Pipe(sys.WriteEnd)
	if err != nil {
		return nil, errs.Wrap(op, s.pod.ID, err)
	}
	defer stdin.Close()
	c, err := s.reaper.spawn(sys.Process{
		Path: "/proc/self/exe", Args: []string{"stagelet-stage1", "init"}, Env: []string{"GOMAXPROCS=1"},
		Dir: "/", Files: []*os.File{stdin, s.runtime.null, s.runtime.null},
		Namespaces: namespaces | syscall.CLONE_NEWNS, Users: users,
	})
	if err != nil {
		hold.Close()
		return nil, errs.Wrap(op, s.pod.ID, err)
	}
	shared := namespaces&syscall.CLONE_NEWPID != 0
	if shared {
		s.own("pid", "pid", c.pid)
	}
	go func() {
		defer hold.Close()
		<-c.done
		if shared {
			s.complain("init of the shared PID namespace %s: no app of the pod can run any more", c.status)
		}
	}()
	return c, nil
}

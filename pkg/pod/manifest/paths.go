package manifest

import "path/filepath"

// Cgroup gives the path of a cgroup of the pod: an app's by its id, the
// supervisor's by the pod's own.
func (p *Pod) Cgroup(id string) string { return filepath.Join(p.CgroupParent, p.CgroupScope, id) }

// Dir is a pod's directory on disk; every path below it has its function here.
type Dir string

// The files of a pod.
func (d Dir) Pod() string     { return filepath.Join(string(d), "pod.json") }
func (d Dir) Stage1() string  { return filepath.Join(string(d), "stage1.json") }
func (d Dir) Plan() string    { return filepath.Join(string(d), "plan.json") }
func (d Dir) Network() string { return filepath.Join(string(d), "network.json") }
func (d Dir) Log() string     { return filepath.Join(string(d), "log") }
func (d Dir) Etc() string     { return filepath.Join(string(d), "etc") } // hostname, hosts, resolv.conf
func (d Dir) Apps() string    { return filepath.Join(string(d), "apps") }

// Volume gives the directory of an empty volume.
func (d Dir) Volume(name string) string { return filepath.Join(string(d), "volumes", name) }

// App gives the directory of one app.
func (d Dir) App(id string) AppDir { return AppDir(filepath.Join(string(d), "apps", id)) }

// AppDir is the directory of an app.
type AppDir string

// The files of an app.
func (a AppDir) App() string        { return filepath.Join(string(a), "app.json") }
func (a AppDir) Status() string     { return filepath.Join(string(a), "status.json") }
func (a AppDir) Bundle() string     { return filepath.Join(string(a), "spec") } // OCI bundle
func (a AppDir) Spec() string       { return filepath.Join(string(a), "spec", "config.json") }
func (a AppDir) Upper() string      { return filepath.Join(string(a), "upper") }
func (a AppDir) Checkpoint() string { return filepath.Join(string(a), "checkpoint") } // CRIU's images of an app to be restored
func (a AppDir) Work() string       { return filepath.Join(string(a), "work") }

// RunDir is a pod's directory for what does not outlive a boot. The mounts in
// it exist in the mount namespace of the pod's supervisor alone.
type RunDir string

// The run-time files of a pod.
func (r RunDir) Socket() string           { return filepath.Join(string(r), "stage1.sock") }
func (r RunDir) Shm() string              { return filepath.Join(string(r), "shm") }
func (r RunDir) Runtime() string          { return filepath.Join(string(r), "runtime") } // the OCI runtime's own state
func (r RunDir) Rootfs(app string) string { return filepath.Join(string(r), "rootfs", app) }

// Memory is where a volume of the pod's own is mounted that is in memory.
func (r RunDir) Memory(volume string) string { return filepath.Join(string(r), "memory", volume) }

// Volumes holds the mounts of an app, named by their index in App.Mounts, so
// that the executor finds them in the supervisor's mount namespace.
func (r RunDir) Volumes(app string) string { return filepath.Join(string(r), "volumes", app) }

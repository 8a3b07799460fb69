package sys

import "syscall"

// Signal sends sig to every process in the cgroup at path and below it, the
// calling one excepted. Processes born meanwhile may be missed.
func (c Cgroups) Signal(path string, sig syscall.Signal) error { return c.signalAll(path, sig) }

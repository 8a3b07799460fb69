// Package sys is the kernel as the rest needs it: processes, namespaces,
// mounts, cgroups, sockets that carry descriptors, locks, terminals. It alone
// makes system calls that the standard library doesn't.
package sys

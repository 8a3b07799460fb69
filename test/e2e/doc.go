// Package e2e tests the built programs from the outside: through CRI as
// kubelet speaks it (k8s.io/cri-client), and through the command line.
//
// Every test that needs one has a server of its own, with directories, a
// network, cgroups and a socket that nobody else uses; see startServer.
package e2e

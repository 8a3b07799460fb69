// Package cri is the edge towards kubelet and crictl: the CRI v1 services over
// the verbs of stage0. It translates, validates and filters; it holds no state.
//
// Here alone a pod is a "sandbox" and an app a "container". Everything that
// turns one into the other is a pure function in a translate_*.go file; every
// error becomes a gRPC status in errors.go and nowhere else.
//
// docs/cri-coverage.md says of each RPC and field what becomes of it.
package cri

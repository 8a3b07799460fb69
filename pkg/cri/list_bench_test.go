package cri

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// fullNode holds as many containers as kubelet would make, four to a pod, with
// the labels and annotations that it gives them.
func fullNode(count int) *node {
	n := newNode()
	for i := range count / 4 {
		p := &manifest.Pod{ID: pod.NewID(), Creator: manifest.CreatorCRI, Name: fmt.Sprintf("pod-%d", i), Namespace: "default", UID: pod.NewID()}
		s := &pod.Snapshot{Pod: p, State: pod.Running}
		for j := range 4 {
			s.Apps = append(s.Apps, pod.App{
				App: &manifest.App{
					ID: pod.NewID(), PodID: p.ID, Name: fmt.Sprintf("container-%d", j), CreatedAt: 1,
					Image: manifest.AppImage{ID: imageID, Name: imageName},
					Labels: map[string]string{
						"io.kubernetes.container.name": fmt.Sprintf("container-%d", j), "io.kubernetes.pod.name": p.Name,
						"io.kubernetes.pod.namespace": p.Namespace, "io.kubernetes.pod.uid": p.UID,
					},
					Annotations: map[string]string{
						"io.kubernetes.container.hash": "7dbc5a5c", "io.kubernetes.container.restartCount": "0",
						"io.kubernetes.container.terminationMessagePath":   "/dev/termination-log",
						"io.kubernetes.container.terminationMessagePolicy": "File",
						"io.kubernetes.pod.terminationGracePeriod":         "30",
					},
				},
				Status: manifest.Status{State: manifest.AppRunning},
			})
		}
		n.index.Put(s)
	}
	return n
}

// BenchmarkListContainers is what kubelet does each second, seen by the client.
func BenchmarkListContainers(b *testing.B) {
	c := serve(b, fullNode(1000))
	b.ReportAllocs()
	for b.Loop() {
		r, err := c.ListContainers(b.Context(), &runtimeapi.ListContainersRequest{})
		if err != nil || len(r.GetContainers()) != 1000 {
			b.Fatal(len(r.GetContainers()), err)
		}
	}
}

// BenchmarkListContainersServe is the part of it that is ours, up to the bytes
// of the response: the first time, and when nothing changed since.
func BenchmarkListContainersServe(b *testing.B) {
	n := fullNode(1000)
	for _, name := range []string{"first", "again"} {
		b.Run(name, func(b *testing.B) {
			s := newServer(n, n, Options{}, platform{})
			b.ReportAllocs()
			for b.Loop() {
				if name == "first" {
					s = newServer(n, n, Options{}, platform{})
				}
				r, err := s.runtime.ListContainers(b.Context(), &runtimeapi.ListContainersRequest{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := proto.Marshal(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkListContainersDecode is the part of it that is the client's, and
// can't be made less.
func BenchmarkListContainersDecode(b *testing.B) {
	n := fullNode(1000)
	r, err := newServer(n, n, Options{}, platform{}).runtime.ListContainers(b.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil {
		b.Fatal(err)
	}
	wire, err := proto.Marshal(r)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := proto.Unmarshal(wire, &runtimeapi.ListContainersResponse{}); err != nil {
			b.Fatal(err)
		}
	}
}

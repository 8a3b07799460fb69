package e2e

import (
	"errors"
	"os"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/stagelet/stagelet/internal/atomicfile"
	podstore "github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

const (
	listedPods = 100
	appsOfEach = 10
)

// startWithManyApps gives a server that has listedPods pods, made on disk
// after the likeness of one that ran.
func startWithManyApps(t testing.TB) *server {
	t.Helper()
	s := startServer(t)
	p := s.runPod(t, podNamespaces(&cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER}))
	a := p.start(t, "exit 3")
	a.awaitExit(t)
	if err := s.runtime.StopPodSandbox(s.ctx, p.id); err != nil {
		t.Fatal(err)
	}
	s.kill()
	for range listedPods - 1 {
		if err := s.copyPod(p.id, a.id); err != nil {
			t.Fatal(err)
		}
	}
	own := manifest.Dir(s.path("lib", "pods", "run", p.id))
	if err := copyApps(own.App(a.id), own, p.id, appsOfEach-1); err != nil {
		t.Fatal(err)
	}
	s.start()
	return s
}

// copyPod makes another pod like pod, with apps like app.
func (s *server) copyPod(podID, appID string) error {
	id := podstore.NewID()
	from, to := manifest.Dir(s.path("lib", "pods", "run", podID)), manifest.Dir(s.path("lib", "pods", "run", id))
	var p manifest.Pod
	var stage1 manifest.Stage1
	_, err := atomicfile.ReadRecord(from.Pod(), manifest.KindPod, &p)
	_, err1 := atomicfile.ReadRecord(from.Stage1(), manifest.KindStage1, &stage1)
	if err := errors.Join(err, err1, os.MkdirAll(to.Apps(), 0o700), os.MkdirAll(to.Log(), 0o700)); err != nil {
		return err
	}
	p.ID, p.UID = id, id
	if err := errors.Join(
		atomicfile.WriteRecord(to.Stage1(), manifest.KindStage1, stage1),
		atomicfile.WriteRecord(to.Pod(), manifest.KindPod, p),
	); err != nil {
		return err
	}
	return copyApps(from.App(appID), to, id, appsOfEach)
}

// copyApps makes n apps like the one in from.
func copyApps(from manifest.AppDir, to manifest.Dir, podID string, n int) error {
	var a manifest.App
	var st manifest.Status
	_, err := atomicfile.ReadRecord(from.App(), manifest.KindApp, &a)
	_, err1 := atomicfile.ReadRecord(from.Status(), manifest.KindStatus, &st)
	if err := errors.Join(err, err1); err != nil {
		return err
	}
	for i := range n {
		a.ID, a.PodID, a.Attempt = podstore.NewID(), podID, uint32(i+1)
		dir := to.App(a.ID)
		if err := errors.Join(
			os.MkdirAll(dir.Upper(), 0o700), os.MkdirAll(dir.Work(), 0o700),
			atomicfile.WriteRecord(dir.Status(), manifest.KindStatus, st),
			atomicfile.WriteRecord(dir.App(), manifest.KindApp, a),
		); err != nil {
			return err
		}
	}
	return nil
}

func TestManyAppsAreListed(t *testing.T) {
	s := startWithManyApps(t)
	apps, err := s.runtime.ListContainers(s.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "apps", len(apps), listedPods*appsOfEach)
	wantEqual(t, "pods", len(s.pods()), listedPods)
	for _, a := range apps {
		wantEqual(t, "state", a.State, cri.ContainerState_CONTAINER_EXITED)
	}
}

// BenchmarkList measures what kubelet asks every second. The bar for a list
// of 1000 containers is 5 ms at the client.
func BenchmarkList(b *testing.B) {
	s := startWithManyApps(b)
	b.Run("1000 containers", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.runtime.ListContainers(s.ctx, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("100 pods", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.runtime.ListPodSandbox(s.ctx, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRestart measures from the start of the server, with 100 pods of
// 1000 apps on disk, until it has listed them.
func BenchmarkRestart(b *testing.B) {
	s := startWithManyApps(b)
	for b.Loop() {
		b.StopTimer()
		s.kill()
		b.StartTimer()
		begun := time.Now()
		s.start()
		if n := len(s.pods()); n != listedPods {
			b.Fatalf("%d pods", n)
		}
		b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms/start")
	}
}

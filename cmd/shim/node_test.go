package main

import (
	"bytes"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/pkg/image/archive"
)

// A command gives back all that it opens, also when it can't open all.
func TestNodesAreClosed(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.NeedBusybox(t)
	var n *node
	t.Cleanup(func() { runtime.KeepAlive(n) }) // or its files are closed for it
	testutil.CheckLeaks(t)
	c := defaults()
	c.Root, c.Run = filepath.Join(t.TempDir(), "lib"), filepath.Join(t.TempDir(), "run")
	c.Stage1.Supervisor, c.NRI.Socket = "/bin/true", ""
	opened, err := openNode(&c)
	if err != nil {
		t.Fatal(err)
	}
	n = opened
	var file bytes.Buffer
	if err := (busybox.Image{Name: "localhost/app:v1"}).WriteDocker(&file); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Import(t.Context(), n.images, &file, archive.Options{}); err != nil {
		t.Error(err)
	}
	if err := n.close(); err != nil {
		t.Error(err)
	}
	c.Stage1.Supervisor = ""
	t.Setenv("PATH", "")
	if n, err := openNode(&c); err == nil {
		t.Error("without a supervisor", n.close())
	}
}

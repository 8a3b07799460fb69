package main

import (
	"github.com/stagelet/stagelet/pkg/metadata"
)

// serveMetadata has the server answer registered pods from Recover on; wait is
// for after the engine has ended. Without a sound key none is answered, and all
// else works.
func serveMetadata(c *config, n *node) (wait func()) {
	s, err := metadata.New(metadata.Options{Root: c.Root, Pods: n.engine, Images: n.images, Warn: warn})
	if err != nil {
		warn(err, "serve metadata to pods")
		return func() {}
	}
	n.engine.AttendPods(s.Attend)
	return s.Wait
}

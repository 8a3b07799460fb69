package main

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/internal/testutil"
	"github.com/stagelet/stagelet/internal/testutil/busybox"
	"github.com/stagelet/stagelet/internal/testutil/imagestore"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/archive"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// What is the beginning of several ids is nobody's, one's if it is its tag.
func TestBeginningsOfIDs(t *testing.T) {
	testutil.NeedBusybox(t)
	images := imagestore.New(t, trust.Options{})
	b := &bringer{images: images, policy: pullNever}
	first := map[byte]string{} // id, by its first digit
	for i := 0; ; i++ {
		var file bytes.Buffer
		layer := []busybox.File{busybox.Regular("file", 0o644, []byte(fmt.Sprint(i)))}
		if err := (busybox.Image{Name: fmt.Sprintf("localhost/app:%d", i), Layers: [][]busybox.File{layer}}).WriteDocker(&file); err != nil {
			t.Fatal(err)
		}
		records, err := archive.Import(t.Context(), images, &file, archive.Options{})
		if err != nil {
			t.Fatal(err)
		}
		id := string(records[0].ID)
		digit := records[0].ID.Encoded()[0]
		if first[digit] == "" {
			first[digit] = id
			continue
		}
		if _, err := b.bringImage(t.Context(), string(digit)); !errors.Is(err, errs.Invalid) {
			t.Errorf("of two: %v", err)
		}
		ref, err := image.ParseTag(string(digit))
		if err != nil {
			t.Fatal(err)
		}
		if err := images.Tag(t.Context(), id, ref); err != nil {
			t.Fatal(err)
		}
		if found, err := b.bringImage(t.Context(), string(digit)); err != nil || string(found.ID) != id || found.Name != ref.String() {
			t.Errorf("by its tag: %v, %v", found, err)
		}
		if found, err := b.bringImage(t.Context(), id[len("sha256:"):][:20]); err != nil || string(found.ID) != id || found.Name != id {
			t.Errorf("by the beginning of its id: %v, %v", found, err)
		}
		return
	}
}

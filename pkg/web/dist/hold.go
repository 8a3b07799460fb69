package dist

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/stagelet/stagelet/pkg/image"
)

const (
	// holdTime is how long an image stays for a client after its manifest was
	// served, whoever removes it: the client comes back for what that names.
	holdTime = time.Minute
	// maxHeld bounds the images that are held. More are served all the same.
	maxHeld = 16
)

// heldKey tells records of an image apart: a later one may have replaced it.
type heldKey struct{ id, manifest image.Digest }

func keyOf(r *image.Record) heldKey { return heldKey{r.ID, r.Manifest} }

// held is an image that can be served though it may have been removed.
type held struct {
	record           *image.Record
	repositories     []string // where it was served
	config, manifest []byte
	give             func() // ends the hold on its layers
	users            int    // downloads, and each timer that hasn't run out
	timer            *time.Timer
}

// keeper is a store that also has what is held of removed images. A process
// that dies holds nothing: the next collection frees it.
type keeper struct {
	Store

	mu     sync.Mutex // the innermost: nothing that waits is called with it
	held   map[heldKey]*held
	closed bool
}

// keep holds an image that is listed, as one of that repository, from now on.
func (k *keeper) keep(ctx context.Context, repository string, r *image.Record) error {
	if k.extend(keyOf(r), repository) {
		return nil
	}
	give, err := k.Store.Borrow(ctx, r)
	if err != nil {
		return err
	}
	x := &held{record: r, give: give}
	if x.config, err = k.Store.ConfigBytes(r); err == nil {
		x.manifest, err = k.Store.Manifest(r)
	}
	if err != nil || !k.add(x, repository) {
		give()
	}
	return err
}

// extend says that there is nothing to add.
func (k *keeper) extend(key heldKey, repository string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	x := k.held[key]
	if x == nil || k.closed {
		return k.closed || len(k.held) >= maxHeld
	}
	if !slices.Contains(x.repositories, repository) {
		x.repositories = append(x.repositories, repository)
	}
	if x.timer.Stop() {
		x.timer.Reset(holdTime)
	} else {
		k.start(x)
	}
	return true
}

func (k *keeper) add(x *held, repository string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || len(k.held) >= maxHeld || k.held[keyOf(x.record)] != nil {
		return false
	}
	x.repositories = []string{repository}
	k.held[keyOf(x.record)] = x
	k.start(x)
	return true
}

// start has the lock.
func (k *keeper) start(x *held) {
	x.users++
	x.timer = time.AfterFunc(holdTime, func() { k.drop(x) })
}

// drop ends one use.
func (k *keeper) drop(x *held) {
	k.mu.Lock()
	x.users--
	last := x.users == 0
	if last {
		delete(k.held, keyOf(x.record))
	}
	k.mu.Unlock()
	if last {
		x.give()
	}
}

// close ends all holds but those of downloads under way, and there are no more.
func (k *keeper) close() {
	k.mu.Lock()
	k.closed = true
	var idle []*held
	for _, x := range k.held {
		if x.timer.Stop() {
			idle = append(idle, x)
		}
	}
	k.mu.Unlock()
	for _, x := range idle {
		k.drop(x)
	}
}

// find gives what is held of an image; nil: nothing.
func (k *keeper) find(r *image.Record) *held {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[keyOf(r)]
}

// addTo adds to a catalog what is held of images that it hasn't any more.
func (k *keeper) addTo(c catalog) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, x := range k.held {
		for _, name := range x.repositories {
			repo := c[name]
			if repo == nil {
				repo = &repository{name: name}
				c[name] = repo
			}
			if !slices.ContainsFunc(repo.images, func(r *image.Record) bool { return keyOf(r) == key }) {
				repo.removed = append(repo.removed, x.record)
			}
		}
	}
}

// Borrow keeps the layers of an image, also of a removed one that is held.
func (k *keeper) Borrow(ctx context.Context, r *image.Record) (give func(), err error) {
	k.mu.Lock()
	x := k.held[keyOf(r)]
	if x != nil {
		x.users++
	}
	k.mu.Unlock()
	if x == nil {
		return k.Store.Borrow(ctx, r)
	}
	return func() { k.drop(x) }, nil
}

// ConfigBytes gives the configuration of an image, also of one that is held.
func (k *keeper) ConfigBytes(r *image.Record) ([]byte, error) {
	if x := k.find(r); x != nil {
		return x.config, nil
	}
	return k.Store.ConfigBytes(r)
}

// Manifest gives the manifest of an image, also of one that is held.
func (k *keeper) Manifest(r *image.Record) ([]byte, error) {
	if x := k.find(r); x != nil {
		return x.manifest, nil
	}
	return k.Store.Manifest(r)
}

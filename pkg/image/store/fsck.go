package store

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stagelet/stagelet/pkg/image"
)

// ProblemKind says what is wrong with a part of the store.
type ProblemKind string

// The kinds of problem. Orphans go with the next GC; the others need a person.
const (
	OrphanSession ProblemKind = "orphaned session" // whose process died
	OrphanRecord  ProblemKind = "orphaned record"
	OrphanLayer   ProblemKind = "orphaned layer"
	OrphanBlob    ProblemKind = "orphaned blob"
	OrphanTemp    ProblemKind = "unfinished write"
	DanglingLease ProblemKind = "lease on an image that isn't there"
	DanglingTag   ProblemKind = "tag of an image that isn't there"
	Damaged       ProblemKind = "damaged"
	Missing       ProblemKind = "missing"
	Unknown       ProblemKind = "unknown file"
)

// Problem is one finding of Fsck.
type Problem struct {
	Kind    ProblemKind
	Subject string // a path, a tag or an id
	Detail  string
}

// String reads "kind: subject (detail)".
func (p Problem) String() string {
	s := string(p.Kind) + ": " + p.Subject
	if p.Detail != "" {
		s += " (" + p.Detail + ")"
	}
	return s
}

// Fsck compares all parts of the store with each other and names what doesn't
// fit; it changes nothing. Layers are taken at their record's word;
// Verify reads them.
func (s *Store) Fsck(ctx context.Context) ([]Problem, error) {
	unlock, err := s.lock(ctx, exclusive)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := s.survey(pullKept)
	if err != nil {
		return nil, err
	}
	defer v.release()
	c := checker{store: s, survey: v}
	c.orphans()
	c.names()
	for _, file := range v.index.Images {
		c.image(file)
	}
	slices.SortFunc(c.found, func(a, b Problem) int { return strings.Compare(a.String(), b.String()) })
	return c.found, nil
}

type checker struct {
	store  *Store
	survey *survey
	found  []Problem
}

func (c *checker) add(kind ProblemKind, subject string, why error) {
	p := Problem{Kind: kind, Subject: subject}
	if why != nil {
		p.Detail = why.Error()
	}
	c.found = append(c.found, p)
}

// orphans are what GC would remove, and what it wouldn't touch.
func (c *checker) orphans() {
	g := c.survey.garbage()
	for _, path := range c.survey.dead {
		c.add(OrphanSession, path, nil)
	}
	for _, file := range g.records {
		c.add(OrphanRecord, filepath.Join(c.store.records(), file), nil)
	}
	for _, d := range g.layers {
		c.add(OrphanLayer, string(d), nil)
	}
	for _, d := range g.blobs {
		c.add(OrphanBlob, string(d), nil)
	}
	temps := c.survey.temps()
	for _, path := range temps {
		c.add(OrphanTemp, path, nil)
	}
	for _, path := range c.survey.strange {
		if !slices.Contains(temps, path) {
			c.add(Unknown, path, nil)
		}
	}
}

// names checks that tags and leases lead somewhere.
func (c *checker) names() {
	recorded := map[image.Digest]bool{}
	for _, r := range c.survey.records {
		recorded[r.ID] = true
	}
	for owner, id := range c.survey.leases {
		if !recorded[id] {
			c.add(DanglingLease, owner, fmt.Errorf("on %s", id))
		}
	}
	for tag, id := range c.survey.index.Tags {
		if _, there := c.survey.index.Images[id]; !there {
			c.add(DanglingTag, tag, fmt.Errorf("of %s", id))
		}
	}
}

// image checks that all that a listed image needs is there.
func (c *checker) image(file string) {
	if err := c.survey.broken[file]; err != nil {
		c.add(Damaged, filepath.Join(c.store.records(), file), err)
		return
	}
	r := c.survey.records[file]
	if r == nil {
		c.add(Missing, filepath.Join(c.store.records(), file), nil)
		return
	}
	for _, d := range r.Documents() {
		if _, err := c.store.readBlob(d); err != nil {
			c.add(Damaged, string(d), err)
		}
	}
	for _, d := range r.Trees() {
		if _, err := c.store.layers.Info(d); err != nil {
			c.add(Damaged, string(d), err)
			continue
		}
		if there, err := exists(c.store.layers.Tree(d)); err != nil || !there {
			c.add(Missing, c.store.layers.Tree(d), err)
		}
	}
}

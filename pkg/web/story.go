package web

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
	"github.com/stagelet/stagelet/pkg/image/spool"
	"github.com/stagelet/stagelet/pkg/image/store"
	"github.com/stagelet/stagelet/pkg/image/trust"
)

// chapter is one line of an upload's story.
type chapter struct {
	Step step `json:"step"`
	// Text says it to a person.
	Text  string       `json:"text"`
	Image string       `json:"image,omitempty"` // which one, when there are several
	Layer *layerStatus `json:"layer,omitempty"`
	// Images are what was taken in, in the last line.
	Images []imageView `json:"images,omitempty"`

	// Of an upload that was refused: why, what it lacks, and commands of which
	// one would help.
	Kind  errs.Kind `json:"kind,omitempty"`
	Needs need      `json:"needs,omitempty"`
	Next  []string  `json:"next,omitempty"`
}

// step is what a line is about.
type step string

const (
	stepArchive step = "archive" // what it is
	stepName    step = "name"    // what an image is to be called
	stepConfig  step = "config"  // configuration and manifest are well-formed, and fit each other
	stepTrust   step = "trust"   // a rule accepts the image
	stepLayer   step = "layer"   // how far a layer is
	stepDone    step = "done"    // all images have their names
	stepRefused step = "refused" // nothing was kept
)

// need is what an upload that was refused lacks.
type need string

const (
	needName  need = "name"  // the archive says none: send it again with one
	needTrust need = "trust" // a rule
	needRoom  need = "room"  // on the disk
)

// layerState is what is done for a layer.
type layerState string

const (
	layerWaiting  layerState = "waiting"  // for its turn
	layerChecking layerState = "checking" // being unpacked and digested
	layerChecked  layerState = "checked"  // digest and diff id are right
)

type layerStatus struct {
	Index  int          `json:"index"` // lowest is 0
	Count  int          `json:"count"`
	State  layerState   `json:"state"`
	Digest image.Digest `json:"digest,omitempty"` // as it is in the archive
	DiffID image.Digest `json:"diffID"`
	Done   int64        `json:"done"`            // bytes, as they are in the archive
	Total  int64        `json:"total,omitempty"` // 0: unknown
}

// story tells how an upload goes, a JSON document on each line.
type story struct {
	mu   sync.Mutex
	out  lines
	gone bool // nobody listens any more
	// names are those that the images are to have.
	names []image.Ref
}

func (t *story) tell(c chapter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return
	}
	if c.Step == stepRefused {
		t.out.begin(statusOf(c.Kind)) // if it is the first line
	}
	t.gone = errors.Join(t.out.send(c), t.out.flush()) != nil
}

// end tells what was taken in.
func (t *story) end(records []*image.Record) {
	c := chapter{Step: stepDone, Text: fmt.Sprintf("%d images were taken in", len(records))}
	for _, r := range records {
		c.Images = append(c.Images, viewImage(r, nil))
	}
	if len(records) == 1 {
		c.Text = familiar(t.names) + " was taken in"
	}
	t.tell(c)
}

// refused tells why nothing was taken in, and what would help.
func (t *story) refused(err error) {
	c := chapter{Step: stepRefused, Text: err.Error(), Kind: errs.KindOf(err)}
	switch {
	case errors.Is(err, image.Nameless):
		c.Needs, c.Text = needName, "an image in the archive has no name: say what to call it"
	case errors.Is(err, trust.Refused) && len(t.names) > 0:
		c.Needs = needTrust
		prefix := "stagelet trust add --prefix " + t.names[0].Repository()
		c.Next = []string{prefix + " KEYFILE", prefix + " --insecure"}
	case c.Kind == errs.Exhausted && !errors.Is(err, image.TooLarge):
		c.Needs = needRoom
	}
	t.tell(c)
}

// teller is the store, for an import, and tells of what it is brought.
type teller struct {
	*store.Store
	*story
	file *spool.File
}

// Admit tells of each candidate, and takes in all or none.
func (t *teller) Admit(ctx context.Context, candidates ...*image.Candidate) ([]*image.Record, error) {
	var intakes []store.Intake
	t.tell(chapter{Step: stepArchive, Text: t.form(candidates)})
	t.names = nil
	for _, c := range candidates {
		t.names = append(t.names, c.Names...)
		of := ""
		if len(candidates) > 1 {
			of = c.Names[0].Familiar()
		}
		t.tell(chapter{Step: stepName, Image: of, Text: "called " + familiar(c.Names)})
		plan, err := c.Plan(image.HostPlatform())
		if err != nil {
			return nil, err
		}
		t.tell(chapter{Step: stepConfig, Image: of, Text: describe(plan)})
		intakes = append(intakes, store.Intake{
			Candidate: c,
			Accepted:  func(v image.Verdict) { t.tell(chapter{Step: stepTrust, Image: of, Text: trusted(v)}) },
			Progress:  func(p store.Progress) { t.tell(layerChapter(of, p)) },
		})
	}
	return t.AdmitTold(ctx, intakes...)
}

// Vet is asked about an ACI, and about each that it depends on, before Admit.
func (t *teller) Vet(ctx context.Context, c *image.Candidate) error {
	t.names = c.Names
	return t.Store.Vet(ctx, c)
}

// form says what sort of file brought the candidates.
func (t *teller) form(candidates []*image.Candidate) string {
	form := "docker save archive"
	switch {
	case candidates[0].ACI != nil:
		form = "App Container Image (ACI)"
	case candidates[0].Manifest != nil:
		form = "OCI image layout"
	}
	text := fmt.Sprintf("%s of %d bytes", form, t.file.Transferred)
	if fi, err := t.file.Plain.Stat(); err == nil && fi.Size() != t.file.Transferred {
		text += fmt.Sprintf(", %d uncompressed", fi.Size())
	}
	if n := len(candidates); n > 1 {
		text += fmt.Sprintf(", with %d images", n)
	}
	return text
}

func familiar(names []image.Ref) string {
	var all []string
	for _, n := range names {
		all = append(all, n.Familiar())
	}
	return strings.Join(all, ", ")
}

func describe(p *image.Plan) string {
	layers := "1 layer"
	if n := len(p.Image.RootFS.DiffIDs); n != 1 {
		layers = fmt.Sprintf("%d layers", n)
	}
	text := fmt.Sprintf("configuration %s for %s/%s, %s", p.ID, p.Image.OS, p.Image.Architecture, layers)
	if p.Digest != "" {
		text += fmt.Sprintf("; manifest %s fits it", p.Digest)
	}
	return text
}

func trusted(v image.Verdict) string {
	if len(v.Signers) > 0 {
		return "signed by " + v.Rule
	}
	return v.Rule
}

func layerChapter(of string, p store.Progress) chapter {
	l := &layerStatus{Index: p.Layer, Count: p.Layers, Digest: p.Digest, DiffID: p.DiffID, Done: p.Done, Total: p.Total, State: layerChecking}
	c := chapter{Step: stepLayer, Image: of, Layer: l}
	switch p.State {
	case store.LayerWaiting:
		l.State, c.Text = layerWaiting, fmt.Sprintf("layer %d of %d waits", p.Layer+1, p.Layers)
	case store.LayerFetching:
		c.Text = fmt.Sprintf("layer %d of %d: %d bytes checked", p.Layer+1, p.Layers, p.Done)
	case store.LayerDone, store.LayerThere:
		l.State = layerChecked
		c.Text = fmt.Sprintf("layer %d of %d, %s: diff id %s, %d bytes", p.Layer+1, p.Layers, p.Digest, p.DiffID, p.Total)
	}
	return c
}

package web

import (
	"errors"
	"net/http"
	"time"

	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image"
)

// imageView is an image as the API shows it.
type imageView struct {
	ID          image.Digest    `json:"id"`               // of the configuration
	AppCID      string          `json:"appcID,omitempty"` // "sha512-…", of what was made from an ACI
	Tags        []string        `json:"tags"`
	RepoDigests []string        `json:"repoDigests"`
	Manifest    image.Digest    `json:"manifest"`
	Platform    string          `json:"platform"` // "linux/amd64"
	Size        int64           `json:"size"`     // bytes, of the uncompressed layers
	Layers      []image.Layer   `json:"layers"`   // lowest first
	CreatedAt   time.Time       `json:"createdAt,omitzero"`
	ImportedAt  time.Time       `json:"importedAt"`
	Pinned      bool            `json:"pinned"`
	Insecure    []string        `json:"insecure"`
	Verdict     image.Verdict   `json:"verdict"`
	Earlier     []image.Verdict `json:"earlier"`
	// UsedBy are the apps whose files these are.
	UsedBy []userView `json:"usedBy"`
}

// userView is an app that uses an image.
type userView struct {
	Pod  string `json:"pod"` // its name
	App  string `json:"app"`
	Name string `json:"name"` // of the image, as the app names it
}

func viewImage(r *image.Record, users []userView) imageView {
	v := imageView{
		ID: r.ID, Tags: some(r.Tags), RepoDigests: some(r.RepoDigests), Manifest: r.Manifest,
		Platform: r.Config.OS + "/" + r.Config.Architecture,
		Size:     r.Size, Layers: some(r.Layers), CreatedAt: r.CreatedAt(), ImportedAt: r.ImportedAt, Pinned: r.Pinned,
		Insecure: some(r.Insecure), Verdict: r.Verdict, Earlier: some(r.Earlier), UsedBy: some(users),
	}
	if r.AppC != nil {
		v.AppCID = image.FileName(r.AppC.ID)
	}
	return v
}

// some is what a list is in JSON: never null.
func some[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func (s *server) listImages(w http.ResponseWriter, r *http.Request) {
	records, err := s.Images.List()
	if err != nil {
		fail(w, r, err)
		return
	}
	users := s.imageUsers()
	views := []imageView{}
	for _, record := range records {
		views = append(views, viewImage(record, users[string(record.ID)]))
	}
	answer(w, http.StatusOK, views)
}

// imageUsers gives the apps of each image, by its id.
func (s *server) imageUsers() map[string][]userView {
	users := map[string][]userView{}
	for _, p := range s.allPods() {
		for _, a := range p.Apps {
			users[a.Image.ID] = append(users[a.Image.ID], userView{Pod: podName(p), App: a.Name, Name: a.Image.Name})
			for _, m := range a.Mounts {
				if m.Image != nil {
					users[m.Image.ID] = append(users[m.Image.ID], userView{Pod: podName(p), App: a.Name, Name: m.Image.Name})
				}
			}
		}
	}
	return users
}

// removeImage takes an image out of the list, with all its names. Apps that use
// it go on; what they need stays on the disk until they are gone. One that a
// prepared pod needs stays.
func (s *server) removeImage(w http.ResponseWriter, r *http.Request) {
	id, err := image.ParseDigest(r.PathValue("id"))
	if err != nil {
		fail(w, r, err)
		return
	}
	if _, err := s.Images.Resolve(string(id)); errors.Is(err, errs.NotFound) { // Remove itself is content; a damaged one goes, too
		fail(w, r, err)
		return
	}
	if err := s.Engine.RemoveImage(string(id)); err != nil {
		fail(w, r, err)
		return
	}
	klog.InfoS("Image removed by web", "image", id, "client", r.RemoteAddr)
	w.WriteHeader(http.StatusNoContent)
}

// untagImage takes one name from an image, which stays.
func (s *server) untagImage(w http.ResponseWriter, r *http.Request) {
	name, err := image.ParseTag(r.URL.Query().Get("name"))
	if err == nil {
		err = s.Images.Untag(r.Context(), name)
	}
	if err != nil {
		fail(w, r, err)
		return
	}
	klog.InfoS("Image untagged by web", "name", name, "client", r.RemoteAddr)
	w.WriteHeader(http.StatusNoContent)
}

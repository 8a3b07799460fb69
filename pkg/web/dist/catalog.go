package dist

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/stagelet/stagelet/pkg/image"
)

// maxName bounds the name of a repository, in bytes (distribution-spec: what
// clients support).
const maxName = 255

// pageSize bounds the names of one answer; the next page is linked.
const pageSize = 1000

// catalog is what the store has, by the names that clients ask for.
type catalog map[string]*repository

// repository is the images of one name.
type repository struct {
	name   string
	tags   map[string]*image.Record
	images []*image.Record
}

// catalog sorts the store's images by repository. One whose name no client can
// write is left out.
func (h *Handler) catalog() (catalog, error) {
	records, err := h.store.List()
	if err != nil {
		return nil, err
	}
	all := catalog{}
	for _, r := range records {
		for _, tagged := range r.Tags {
			if i := strings.LastIndexByte(tagged, ':'); i > 0 {
				if repo := all.add(h, tagged[:i], r); repo != nil {
					repo.tags[tagged[i+1:]] = r
				}
			}
		}
		for _, digested := range r.RepoDigests {
			name, _, _ := strings.Cut(digested, "@")
			all.add(h, name, r)
		}
	}
	return all, nil
}

func (c catalog) add(h *Handler, canonical string, r *image.Record) *repository {
	name := Name(canonical)
	repo := c[name]
	if repo == nil {
		if len(name) > maxName || !h.name.MatchString(name) {
			return nil
		}
		repo = &repository{name: name, tags: map[string]*image.Record{}}
		c[name] = repo
	}
	if !slices.Contains(repo.images, r) {
		repo.images = append(repo.images, r)
	}
	return repo
}

// Name gives the name under which a repository is served: its own with the
// registry's, as in "docker.io/library/busybox". Names have no colon, hosts no
// underscore, so a registry's port follows one: "localhost_5000/app".
func Name(repository string) string {
	registry, path, _ := strings.Cut(repository, "/")
	return strings.ToLower(strings.Replace(registry, ":", "_", 1)) + "/" + path
}

// find gives the repository of that name, or of what people mean by it:
// "busybox" is "docker.io/library/busybox". Nil: there is none.
func (c catalog) find(name string) *repository {
	if repo := c[name]; repo != nil {
		return repo
	}
	ref, err := image.ParseRef(name)
	if err != nil {
		return nil
	}
	return c[Name(ref.Repository())]
}

// list answers which repositories there are. The specification leaves this to
// registries; it is as most have it.
func (c catalog) list(w http.ResponseWriter, r *http.Request) error {
	names, err := page(w, r, slices.Sorted(maps.Keys(c)))
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", map[string][]string{"repositories": names})
}

// tags answers "<name>/tags/list".
func tags(w http.ResponseWriter, r *http.Request, repo *repository, what string) error {
	if what != "list" {
		return failure{http.StatusNotFound, codeUnsupported, "there is no such endpoint"}
	}
	names, err := page(w, r, slices.Sorted(maps.Keys(repo.tags)))
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{repo.name, names})
}

// page gives what r asks for of all, which are sorted: "n" names at most, from
// "last" on. Where there are more, they are linked.
func page(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	query, n := r.URL.Query(), pageSize
	if asked := query.Get("n"); asked != "" {
		number, err := strconv.ParseUint(asked, 10, 31)
		if err != nil {
			return nil, failure{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n must be a number from 0 on"}
		}
		n = min(int(number), pageSize)
	}
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if n > 0 && len(all) > n {
		next := url.URL{Path: r.URL.Path, RawQuery: url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}.Encode()}
		w.Header().Set("Link", "<"+next.String()+`>; rel="next"`)
	}
	return append([]string{}, all[:min(n, len(all))]...), nil
}

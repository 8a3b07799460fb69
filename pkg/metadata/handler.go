package metadata

import (
	"crypto/hmac"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/image/appc"
	"github.com/stagelet/stagelet/pkg/pod"
)

// Content types of answers.
const (
	text        = "text/plain; charset=us-ascii"
	jsonContent = "application/json"
)

// answer is what an entry has to say: a value of a content type.
type answer func(p *pod.Snapshot, r *http.Request) (contentType string, body []byte, err error)

// handler serves the entries of one pod.
func (s *Service) handler(podID, token string) http.Handler {
	mux := http.NewServeMux()
	for pattern, entry := range map[string]answer{
		"GET /{token}/acMetadata/v1/pod/annotations":                  podAnnotations,
		"GET /{token}/acMetadata/v1/pod/annotations/{name...}":        podAnnotations,
		"GET /{token}/acMetadata/v1/pod/manifest":                     s.podManifest,
		"GET /{token}/acMetadata/v1/pod/uuid":                         podUUID,
		"GET /{token}/acMetadata/v1/apps/{app}/annotations":           s.appAnnotations,
		"GET /{token}/acMetadata/v1/apps/{app}/annotations/{name...}": s.appAnnotations,
		"GET /{token}/acMetadata/v1/apps/{app}/image/manifest":        s.imageManifest,
		"GET /{token}/acMetadata/v1/apps/{app}/image/id":              s.imageID,
		"POST /{token}/acMetadata/v1/pod/hmac/sign":                   s.sign,
		"POST /{token}/acMetadata/v1/pod/hmac/verify":                 s.verify,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "AppContainer")
			if subtle.ConstantTimeCompare([]byte(r.PathValue("token")), []byte(token)) != 1 {
				http.Error(w, "not your token", http.StatusUnauthorized)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			p, err := s.Pods.Pod(podID)
			if err == nil {
				var contentType string
				var body []byte
				if contentType, body, err = entry(p, r); err == nil {
					w.Header().Set("Content-Type", contentType)
					_, _ = w.Write(body)
					return
				}
			}
			http.Error(w, err.Error(), statusOf(err))
		})
	}
	return mux
}

func statusOf(err error) int {
	var large *http.MaxBytesError
	switch kind := errs.KindOf(err); {
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case kind == errs.NotFound:
		return http.StatusNotFound
	case kind == errs.Denied:
		return http.StatusForbidden
	case kind == errs.Invalid:
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// annotationsOr gives all annotations, or the one that the request names.
func annotationsOr(r *http.Request, all appc.Annotations) (string, []byte, error) {
	name := r.PathValue("name")
	if name == "" {
		if all == nil {
			all = appc.Annotations{}
		}
		return inJSON(all)
	}
	value, there := all.Get(name)
	if !there {
		return "", nil, errs.New("find annotation", errs.NotFound, name, nil)
	}
	return text, []byte(value), nil
}

func inJSON(v any) (string, []byte, error) {
	body, err := json.Marshal(v)
	return jsonContent, body, err
}

func podAnnotations(p *pod.Snapshot, r *http.Request) (string, []byte, error) {
	return annotationsOr(r, annotations(p.Pod.Annotations))
}

func podUUID(p *pod.Snapshot, _ *http.Request) (string, []byte, error) {
	return text, []byte(uuidOf(p.Pod.ID).String()), nil
}

func (s *Service) sign(p *pod.Snapshot, r *http.Request) (string, []byte, error) {
	content, err := formValue(r, "content")
	if err != nil {
		return "", nil, err
	}
	return text, []byte(base64.StdEncoding.EncodeToString(sign(s.key, uuidOf(p.Pod.ID), content))), nil
}

// verify is for the signatures of any pod of this node, also of those that are
// no more.
func (s *Service) verify(_ *pod.Snapshot, r *http.Request) (string, []byte, error) {
	const op = "verify"
	content, err := formValue(r, "content")
	if err != nil {
		return "", nil, err
	}
	who, err := formValue(r, "uuid")
	if err != nil {
		return "", nil, err
	}
	encoded, err := formValue(r, "signature")
	if err != nil {
		return "", nil, err
	}
	id, ok := parseUUID(who)
	if !ok {
		return "", nil, errs.New(op, errs.Invalid, "uuid", errors.New("it is no UUID"))
	}
	signature, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", nil, errs.New(op, errs.Invalid, "signature", errors.New("it is no base64"))
	}
	if !hmac.Equal(signature, sign(s.key, id, content)) {
		return "", nil, errs.New(op, errs.Denied, who, errors.New("it didn't sign this"))
	}
	return text, nil, nil
}

// formValue gives a field of a form that isn't empty.
func formValue(r *http.Request, name string) (string, error) {
	if err := r.ParseForm(); err != nil {
		return "", errs.New("read form", errs.Invalid, "", err)
	}
	value := r.PostForm.Get(name)
	if value == "" {
		return "", errs.New("read form", errs.Invalid, name, errors.New("it is missing"))
	}
	return value, nil
}

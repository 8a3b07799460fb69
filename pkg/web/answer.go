package web

import (
	"encoding/json"
	"errors"
	"net/http"

	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/errs"
)

// problem is the body of every answer of the API that refuses.
type problem struct {
	Kind  errs.Kind `json:"kind"`
	Error string    `json:"error"`
}

// registryProblem is the same for clients of the distribution endpoint (OCI
// distribution-spec, "Error Codes").
type registryProblem struct {
	Errors []registryError `json:"errors"`
}

type registryError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refuse answers with an error, in the form that the path's clients know.
func refuse(w http.ResponseWriter, r *http.Request, status int, kind errs.Kind, text string) {
	if !under(r.URL.Path, "/v2") {
		answer(w, status, problem{kind, text})
		return
	}
	code := "DENIED"
	switch status {
	case http.StatusUnauthorized:
		code = "UNAUTHORIZED"
	case http.StatusTooManyRequests:
		code = "TOOMANYREQUESTS"
	}
	answer(w, status, registryProblem{[]registryError{{code, text}}})
}

// fail answers with an error of a lower floor.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	kind := errs.KindOf(err)
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		kind = errs.Exhausted
	}
	refuse(w, r, statusOf(kind), kind, err.Error())
}

// busy answers that all slots for something are taken.
func busy(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Retry-After", "10")
	fail(w, r, err)
}

// statusOf gives the status (RFC 9110) for a kind of error.
func statusOf(kind errs.Kind) int {
	switch kind {
	case errs.Invalid, errs.Corrupt, errs.Canceled:
		return http.StatusBadRequest
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Exists, errs.Precondition:
		return http.StatusConflict
	case errs.Unavailable:
		return http.StatusServiceUnavailable
	case errs.Timeout:
		return http.StatusGatewayTimeout
	case errs.Denied:
		return http.StatusForbidden
	case errs.Unsupported:
		return http.StatusUnprocessableEntity
	case errs.Exhausted:
		return http.StatusInsufficientStorage
	case errs.Internal:
	}
	return http.StatusInternalServerError
}

// answer writes a JSON document.
func answer(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(document); err != nil {
		klog.V(4).InfoS("Nobody waits for an answer any more", "err", err)
	}
}

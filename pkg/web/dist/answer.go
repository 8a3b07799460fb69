package dist

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/stagelet/stagelet/internal/errs"
)

const codeUnsupported = "UNSUPPORTED"

// failure is an error as clients get it (OCI distribution-spec, "Error
// Codes").
type failure struct {
	status  int
	code    string
	message string
}

func (f failure) Error() string { return f.code + ": " + f.message }

// fail answers with err. Nothing has been written before.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var f failure
	if !errors.As(err, &f) {
		f = failure{http.StatusInternalServerError, "UNKNOWN", err.Error()}
		kind := errs.KindOf(err)
		switch kind {
		case errs.Canceled, errs.Unavailable, errs.Timeout, errs.Exhausted:
			f.status = http.StatusServiceUnavailable
		}
		if kind != errs.Canceled { // by a client that is gone, or the server's end, which others are told of
			h.warn(err, "serve "+r.URL.Path)
		}
	}
	if f.status == http.StatusTooManyRequests || f.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	data, err := json.Marshal(map[string][]one{"errors": {{f.code, f.message}}})
	if err != nil {
		return // of strings alone; it can't happen
	}
	header(w, "application/json", len(data))
	w.WriteHeader(f.status)
	_, _ = w.Write(data)
}

func header(w http.ResponseWriter, mediaType string, length int) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(length))
}

func writeJSON(w http.ResponseWriter, mediaType string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return errs.Wrap("answer", "", err)
	}
	header(w, mediaType, len(data))
	_, _ = w.Write(data) // a client that is gone needs no answer
	return nil
}

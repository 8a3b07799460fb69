package web

import (
	"encoding/json"
	"errors"
	"net/http"
)

// lines is an answer that is told line by line, a JSON document on each, as
// things come.
type lines struct {
	w     http.ResponseWriter
	begun bool
}

// begin answers with a status, if nothing was answered yet.
func (l *lines) begin(status int) {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.WriteHeader(status)
	}
}

// send sends one line.
func (l *lines) send(document any) error {
	l.begin(http.StatusOK)
	return json.NewEncoder(l.w).Encode(document)
}

// flush sends at once what was begun or sent.
func (l *lines) flush() error {
	err := http.NewResponseController(l.w).Flush()
	if errors.Is(err, http.ErrNotSupported) { // a test's recorder
		return nil
	}
	return err
}

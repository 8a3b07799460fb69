package web

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"k8s.io/klog/v2"

	"github.com/stagelet/stagelet/internal/applog"
	"github.com/stagelet/stagelet/internal/errs"
	"github.com/stagelet/stagelet/pkg/pod"
	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

const (
	opLog = "read log"
	// maxTail bounds the lines that a log is begun with.
	maxTail = 10_000
	// maxFollowers bounds how many logs are followed at once.
	maxFollowers = 64
)

// logView is a line of an app's log.
type logView struct {
	Time    time.Time `json:"time,omitzero"`
	Stream  string    `json:"stream"`
	Text    string    `json:"text"`
	Partial bool      `json:"partial,omitempty"` // the line goes on in the next one of its stream
}

// readLog gives the last lines of an app's log (tail=N), each a JSON document,
// and with follow=true all that come, until the app ends.
func (s *server) readLog(w http.ResponseWriter, r *http.Request) {
	_, app, err := s.Engine.App(r.PathValue("id"))
	if err != nil {
		fail(w, r, err)
		return
	}
	path, err := s.Engine.AppLog(app.ID)
	if err != nil {
		fail(w, r, err)
		return
	}
	o := applog.Options{}
	if o.Tail, err = tailOf(r); err != nil {
		fail(w, r, err)
		return
	}
	out := &lines{w: w}
	flush := func() error { return nil }
	if follow, _ := strconv.ParseBool(r.URL.Query().Get("follow")); follow {
		give, ok := s.followers.take()
		if !ok {
			busy(w, r, errs.New(opLog, errs.Unavailable, app.Name, fmt.Errorf("%d logs are being followed; close one", maxFollowers)))
			return
		}
		defer give()
		o.Ended = func() bool { return s.hasEnded(app.ID) }
		flush = out.flush
		out.begin(http.StatusOK) // the first line may be long in coming
		_ = out.flush()
	}
	err = applog.Read(r.Context(), path, o, func(l applog.Line) error {
		return errors.Join(out.send(logView(l)), flush())
	})
	switch {
	case err == nil:
	case !out.begun:
		fail(w, r, err)
	default: // who reads is to see that this is not the log's end
		if r.Context().Err() == nil {
			klog.InfoS("A log broke off", "app", app.Name, "client", r.RemoteAddr, "err", err)
		}
		panic(http.ErrAbortHandler)
	}
}

func tailOf(r *http.Request) (int, error) {
	text := r.URL.Query().Get("tail")
	if text == "" {
		return maxTail, nil
	}
	tail, err := strconv.Atoi(text)
	if err != nil || tail < 0 || tail > maxTail {
		return 0, errs.New(opLog, errs.Invalid, "tail", fmt.Errorf("it must be a number from 0 to %d", maxTail))
	}
	return tail, nil
}

// hasEnded says that nobody writes an app's log any more. One that was only
// created yet may still.
func (s *server) hasEnded(id string) bool {
	p, a, err := s.Engine.App(id)
	return err != nil || p.State != pod.Running || a.Status.State == manifest.AppExited
}
